//! Brokers of Apache Kafka in KRaft mode, each also a controller, on loopback.
//!
//! ```text
//! DIR/log4j2.xml  made     DIR/broker-N/server.properties  pid  output  data/
//! ```
//!
//! Invariants: a broker's properties are written once, with all ports of the cluster, so it comes back where it was.
//! The file `made` is written last of all; a cluster without it is half made, and removed by the next `up`.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::jars::Jars;
use super::process;

/// So long a broker may take until it serves; a machine that builds beside it is slow.
const START_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// So long a process may have no command line yet, because it is just being loaded.
const LOAD_MAX: Duration = Duration::from_secs(2);
/// What a broker says when it serves.
const SERVES: &str = "Kafka Server started";

/// Is there when a cluster was made to the end.
const MADE: &str = "made";

/// A cluster that lives, or will live, in a directory.
pub(super) struct Cluster {
    dir: PathBuf,
}

/// One of its brokers.
struct Broker {
    number: u32,
    dir: PathBuf,
}

impl Cluster {
    pub(super) fn at(dir: PathBuf) -> Cluster {
        Cluster { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts what does not run, makes it if there is none, and waits until all serve; gives their addresses.
    pub(super) fn up(&self, jars: &Jars, count: u32) -> Result<String, String> {
        if !self.dir.join(MADE).is_file() {
            self.down()?;
        }
        let mut brokers = self.brokers();
        if brokers.is_empty() {
            brokers = self.make(jars, count)?;
        }
        if brokers.len() != count as usize {
            let there = brokers.len();
            return Err(format!("a cluster of {there} is here already: `cargo xtask kafka down` removes it"));
        }
        for broker in brokers.iter().filter(|broker| !broker.runs()) {
            broker.start(jars, &self.dir.join("log4j2.xml"))?;
        }
        // All of them: another run may have started one just now.
        brokers.iter().try_for_each(Broker::wait_until_it_serves)?;
        self.bootstrap()
    }

    /// Ends what runs, and keeps what is on disk.
    pub(super) fn stop(&self) -> Result<(), String> {
        self.brokers().iter().try_for_each(Broker::kill)
    }

    /// Ends what runs, and removes what is on disk.
    pub(super) fn down(&self) -> Result<(), String> {
        self.stop()?;
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.complain("remove", &error)),
            _ => Ok(()),
        }
    }

    /// Says what runs and where; whether all do.
    pub(super) fn status(&self) -> Result<bool, String> {
        let brokers = self.brokers();
        if brokers.is_empty() {
            say("no cluster: `cargo xtask kafka up` starts one");
            return Ok(false);
        }
        say(&self.bootstrap()?);
        let mut all = true;
        for broker in &brokers {
            let state = match broker.pid().filter(|_| broker.runs()) {
                Some(pid) => format!("runs as process {pid}"),
                None => "does not run".to_owned(),
            };
            all &= broker.runs();
            say(&format!("broker {}: {state}; {}", broker.number, broker.dir.join("output").display()));
        }
        Ok(all)
    }

    /// Those whose directory is there, in order.
    fn brokers(&self) -> Vec<Broker> {
        let broker = |number| Broker { number, dir: self.dir.join(format!("broker-{number}")) };
        (1..).map(broker).take_while(|broker| broker.dir.is_dir()).collect()
    }

    fn bootstrap(&self) -> Result<String, String> {
        let addresses: Result<Vec<String>, String> = self.brokers().iter().map(Broker::address).collect();
        Ok(addresses?.join(","))
    }

    fn make(&self, jars: &Jars, count: u32) -> Result<Vec<Broker>, String> {
        fs::create_dir_all(&self.dir).map_err(|error| self.complain("make", &error))?;
        fs::write(self.dir.join("log4j2.xml"), LOG4J2).map_err(|error| self.complain("write to", &error))?;
        let ports = free_ports(2 * count).map_err(|error| format!("no free ports: {error}"))?;
        let (clients, controllers) = ports.split_at(count as usize);
        let id = cluster_id().map_err(|error| format!("no random bytes: {error}"))?;
        for number in 1..=count {
            let dir = self.dir.join(format!("broker-{number}"));
            fs::create_dir_all(&dir).map_err(|error| self.complain("make", &error))?;
        }
        let brokers = self.brokers();
        for broker in &brokers {
            let text = properties(broker, clients, controllers);
            let path = broker.dir.join("server.properties");
            fs::write(path, text).map_err(|error| self.complain("write to", &error))?;
            broker.format(jars, &id)?;
        }
        fs::write(self.dir.join(MADE), "").map_err(|error| self.complain("write to", &error))?;
        Ok(brokers)
    }

    fn complain(&self, doing: &str, error: &io::Error) -> String {
        format!("cannot {doing} {}: {error}", self.dir.display())
    }
}

impl Broker {
    fn properties_path(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn properties(&self) -> Result<String, String> {
        let path = self.properties_path();
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    fn address(&self) -> Result<String, String> {
        let properties = self.properties()?;
        let address = properties.lines().find_map(|line| line.strip_prefix("advertised.listeners=PLAINTEXT://"));
        address.map(str::to_owned).ok_or_else(|| format!("{}: no address", self.properties_path().display()))
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()
    }

    fn runs(&self) -> bool {
        self.pid().is_some_and(|pid| process::runs(pid, &self.properties_path()))
    }

    fn kill(&self) -> Result<(), String> {
        self.pid().map_or(Ok(()), |pid| process::kill(pid, &self.properties_path()))
    }

    fn java(&self, jars: &Jars) -> Command {
        let mut java = Command::new(&jars.java);
        java.current_dir(&self.dir).arg("-cp").arg(jars.dir.join("*")).stdin(Stdio::null());
        java
    }

    fn format(&self, jars: &Jars, cluster_id: &str) -> Result<(), String> {
        let mut java = self.java(jars);
        java.args(["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c"]).arg(self.properties_path());
        let output = java.output().map_err(|error| format!("cannot run Java: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("broker {} could not be formatted: {}", self.number, said.trim()))
    }

    /// Starts it in a group of its own, so that an interrupt at the terminal is not for it.
    fn start(&self, jars: &Jars, log4j2: &Path) -> Result<(), String> {
        let broken = |error: io::Error| format!("broker {} cannot be started: {error}", self.number);
        let output = File::create(self.dir.join("output")).map_err(broken)?;
        let errors = output.try_clone().map_err(broken)?;
        let mut java = Command::new(&jars.java);
        java.current_dir(&self.dir).args(["-Xmx512m", "-Xms128m", "-XX:+ExitOnOutOfMemoryError"]);
        java.arg(format!("-Dlog4j2.configurationFile={}", log4j2.display()));
        java.arg("-cp").arg(jars.dir.join("*")).arg("kafka.Kafka").arg(self.properties_path());
        java.stdin(Stdio::null()).stdout(output).stderr(errors);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut java, 0);
        let child = java.spawn().map_err(broken)?;
        fs::write(self.dir.join("pid"), format!("{}\n", child.id())).map_err(broken)
    }

    fn wait_until_it_serves(&self) -> Result<(), String> {
        let began = Instant::now();
        let path = self.dir.join("output");
        loop {
            let output = fs::read_to_string(&path).unwrap_or_default();
            if output.contains(SERVES) {
                return Ok(());
            }
            let runs = self.runs() || began.elapsed() < LOAD_MAX;
            if !runs || began.elapsed() > START_MAX {
                let how = if runs { "does not serve" } else { "has ended" };
                let lines: Vec<&str> = output.lines().collect();
                let last = lines[lines.len().saturating_sub(10)..].join("\n");
                return Err(format!("broker {} {how}, see {}:\n{last}", self.number, path.display()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Whoever reads may stop after the first line, which is the address.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// What a broker of a small cluster for tests is told. Time-outs and topics are as small as the size of the cluster
/// lets them be; what a guarantee rests on is as it is everywhere.
fn properties(broker: &Broker, clients: &[u16], controllers: &[u16]) -> String {
    let at = broker.number as usize - 1;
    let (client, controller) = (clients[at], controllers[at]);
    let voters: Vec<String> =
        (1..).zip(controllers).map(|(number, port)| format!("{number}@127.0.0.1:{port}")).collect();
    let replicas = controllers.len();
    // The majority of the replicas.
    let in_sync = replicas / 2 + 1;
    let mut text = String::new();
    let mut set = |key: &str, value: &str| {
        text += &format!("{key}={value}\n");
    };
    set("process.roles", "broker,controller");
    set("node.id", &broker.number.to_string());
    set("listeners", &format!("PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}"));
    set("advertised.listeners", &format!("PLAINTEXT://127.0.0.1:{client}"));
    set("controller.listener.names", "CONTROLLER");
    set("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT");
    set("controller.quorum.voters", &voters.join(","));
    set("log.dirs", &broker.dir.join("data").display().to_string());
    set("default.replication.factor", &replicas.to_string());
    set("min.insync.replicas", &in_sync.to_string());
    for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        set(&format!("{topic}.replication.factor"), &replicas.to_string());
    }
    set("transaction.state.log.min.isr", &in_sync.to_string());
    set("share.coordinator.state.topic.min.isr", &in_sync.to_string());
    set("offsets.topic.num.partitions", "8");
    set("transaction.state.log.num.partitions", "8");
    set("group.initial.rebalance.delay.ms", "0");
    set("group.min.session.timeout.ms", "1000");
    set("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500");
    set("auto.create.topics.enable", "false");
    set("log.segment.bytes", "67108864");
    set("num.network.threads", "2");
    set("num.io.threads", "4");
    text
}

/// Ports that are free now, all at once so that they differ.
fn free_ports(count: u32) -> io::Result<Vec<u16>> {
    let held: io::Result<Vec<TcpListener>> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect();
    held?.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Sixteen random bytes as Kafka writes them: base 64 for addresses, without padding.
fn cluster_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(base64(&bytes))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |chunk: &[u8]| {
        let byte = |at: usize| chunk.get(at).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = move |place: usize| char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
        (0..=chunk.len()).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(digits).collect()
}

/// Warnings and what says that it serves, on standard output.
const LOG4J2: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="%d %p %m (%c)%n%throwable"/></Console>
  </Appenders>
  <Loggers>
    <Root level="INFO"><AppenderRef ref="out"/></Root>
    <Logger name="org.apache.kafka.common.config.AbstractConfig" level="WARN"/>
    <Logger name="kafka.server.KafkaConfig" level="WARN"/>
  </Loggers>
</Configuration>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_kafka_writes_them() {
        assert_eq!(base64(b"oncelog-oncelog-"), "b25jZWxvZy1vbmNlbG9nLQ");
        assert_eq!(base64(&[0xff, 0xfe]), "__4");
    }

    #[test]
    fn ports_differ() {
        let ports = free_ports(6).unwrap();
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), 6);
    }

    #[test]
    fn three_brokers_keep_what_two_have() {
        let broker = Broker { number: 2, dir: PathBuf::from("/b") };
        let text = properties(&broker, &[1, 2, 3], &[4, 5, 6]);
        for line in [
            "node.id=2",
            "advertised.listeners=PLAINTEXT://127.0.0.1:2",
            "controller.quorum.voters=1@127.0.0.1:4,2@127.0.0.1:5,3@127.0.0.1:6",
            "transaction.state.log.replication.factor=3",
            "transaction.state.log.min.isr=2",
            "log.dirs=/b/data",
        ] {
            assert!(text.lines().any(|has| has == line), "{line}");
        }
        let alone = properties(&Broker { number: 1, dir: PathBuf::from("/b") }, &[1], &[4]);
        assert!(alone.contains("transaction.state.log.replication.factor=1\n"));
        assert!(alone.contains("transaction.state.log.min.isr=1\n"));
    }
}
