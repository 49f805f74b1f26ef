//! The jars of a broker, brought from Maven Central by Maven itself, once, and kept outside the checkout.
//!
//! Invariant: a directory under its final name is whole. It is filled under another name and renamed, and the name says
//! what is in it, so that another version is another directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version of Apache Kafka.
pub(super) const KAFKA: &str = "4.3.1";
/// That of what it logs by.
const LOG4J: &str = "2.25.4";
/// The oldest Java that this Kafka runs on.
const JAVA_MIN: u32 = 17;

/// What a broker is run with.
pub(super) struct Jars {
    pub(super) java: PathBuf,
    pub(super) dir: PathBuf,
}

/// Finds Java and the jars, and brings the jars if they are not there.
pub(super) fn get() -> Result<Jars, String> {
    let java = find_java()?;
    let tools = tools_dir()?;
    let dir = tools.join(format!("kafka-{KAFKA}-log4j-{LOG4J}"));
    if !dir.is_dir() {
        bring(&tools, &dir)?;
    }
    Ok(Jars { java, dir })
}

/// Beside cargo's own things, as for the other tools that are built once.
fn tools_dir() -> Result<PathBuf, String> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = cargo_home.or_else(home).ok_or("neither CARGO_HOME nor HOME is set")?;
    Ok(cargo_home.join("tools"))
}

fn find_java() -> Result<PathBuf, String> {
    let of_home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin").join("java"));
    let java = of_home.filter(|java| java.is_file()).unwrap_or_else(|| PathBuf::from("java"));
    let asked = Command::new(&java).arg("-version").stdin(Stdio::null()).output();
    let asked = asked.map_err(|error| format!("Java {JAVA_MIN} or newer is needed: {}: {error}", java.display()))?;
    // It says so on standard error, all versions of it.
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    match java_version(&said) {
        Some(version) if version >= JAVA_MIN => Ok(java),
        Some(version) => Err(format!("Java {JAVA_MIN} or newer is needed: {} is {version}", java.display())),
        None => Err(format!("{} -version says no version: {}", java.display(), said.trim())),
    }
}

/// The first number of the version, as Java counts since 9.
fn java_version(said: &str) -> Option<u32> {
    let (_, quoted) = said.split_once("version \"")?;
    quoted.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn bring(tools: &Path, dir: &Path) -> Result<(), String> {
    println!("the jars of Apache Kafka {KAFKA} are not here: bringing them by Maven, once");
    let build = tools.join(format!("kafka-{KAFKA}.{}", std::process::id()));
    let brought = fill(&build, &build.join("jars"));
    let kept = brought.and_then(|()| {
        std::fs::rename(build.join("jars"), dir).or_else(|error| {
            // Another run was faster, and brought the same.
            if dir.is_dir() { Ok(()) } else { Err(format!("cannot move the jars to {}: {error}", dir.display())) }
        })
    });
    // What is left behind is in nobody's way.
    let _ = std::fs::remove_dir_all(&build);
    kept
}

fn fill(build: &Path, jars: &Path) -> Result<(), String> {
    let io = |error: std::io::Error| format!("cannot write to {}: {error}", build.display());
    std::fs::create_dir_all(build).map_err(io)?;
    std::fs::write(build.join("pom.xml"), pom()).map_err(io)?;
    let mut maven = Command::new("mvn");
    maven.current_dir(build).args(["--batch-mode", "--quiet", "dependency:copy-dependencies"]);
    maven.args(["-DincludeScope=runtime", "-DoutputDirectory=jars"]).stdin(Stdio::null());
    let ran = maven.status().map_err(|error| format!("Maven is needed to bring the jars of Kafka: mvn: {error}"))?;
    let name = format!("kafka_2.13-{KAFKA}.jar");
    match ran.success() && jars.join(&name).is_file() {
        true => Ok(()),
        false => Err(format!("Maven did not bring {name}, see above")),
    }
}

/// The broker, its tools, and what it logs by.
fn pom() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>\
             </dependency>"
        )
    };
    let dependencies = [
        dependency("org.apache.kafka", "kafka_2.13", KAFKA),
        dependency("org.apache.kafka", "kafka-tools", KAFKA),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
    ];
    format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>oncelog</groupId><artifactId>kafka</artifactId>\
         <version>1</version><packaging>pom</packaging><dependencies>{}</dependencies></project>\n",
        dependencies.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_java_are_read() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(java_version("java version \"1.8.0_402\""), Some(1));
        assert_eq!(java_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(java_version("no such thing"), None);
    }

    #[test]
    fn the_broker_and_its_log_are_named_with_versions() {
        let pom = pom();
        assert!(pom.contains("<artifactId>kafka_2.13</artifactId><version>4."));
        assert!(pom.contains("<artifactId>log4j-slf4j-impl</artifactId><version>2."));
    }
}
