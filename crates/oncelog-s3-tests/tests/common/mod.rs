//! A server that speaks S3, for one test: moto, a Python package that is installed once below the target directory. It
//! keeps its objects in memory, listens on loopback, and ends with the test.

mod http;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;

/// What is installed, at versions that do not move.
const PACKAGES: [&str; 3] = ["moto[s3]==5.2.5", "flask==3.1.2", "flask-cors==6.0.1"];
const BUCKET: &str = "oncelog-tests";
const START_WITHIN: Duration = Duration::from_secs(60);

/// A running server with a bucket.
pub(crate) struct S3 {
    server: Child,
    at: SocketAddr,
}

impl S3 {
    /// Starts one; `None`: it cannot be had here, which was said.
    ///
    /// # Panics
    /// It cannot be had, and `CI` says that it must.
    pub(crate) fn start() -> Option<S3> {
        let reason = match S3::try_start() {
            Ok(server) => return Some(server),
            Err(reason) => format!("object storage by S3: {reason}"),
        };
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        // Past the test harness, which keeps the output of tests to itself.
        let _ = writeln!(std::io::stdout(), "LEFT OUT: {reason}");
        None
    }

    fn try_start() -> Result<S3, String> {
        let packages = install()?;
        for _ in 0..5 {
            // Free a moment ago. If somebody takes it meanwhile the server ends, and another port is tried.
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
            let at = free.map_err(|error| format!("no port: {error}"))?;
            let server = Command::new("python3")
                .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &at.port().to_string()])
                .env("PYTHONPATH", &packages)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let server = server.map_err(|error| format!("python3 does not start: {error}"))?;
            let mut started = S3 { server, at };
            if started.comes_up() {
                return started.make_bucket().map(|()| started);
            }
        }
        Err("the server does not come up".to_owned())
    }

    fn comes_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < START_WITHIN && matches!(self.server.try_wait(), Ok(None)) {
            if TcpStream::connect(self.at).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn make_bucket(&self) -> Result<(), String> {
        let ask = || {
            let mut connection = TcpStream::connect(self.at)?;
            write!(
                connection,
                "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                self.at
            )?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).map(|_| answer)
        };
        let answer = ask().map_err(|error| format!("no bucket: {error}"))?;
        if answer.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("no bucket: {answer}")) }
    }

    /// The bucket.
    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        let builder = AmazonS3Builder::new()
            .with_http_connector(http::Plain)
            .with_endpoint(format!("http://{}", self.at))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id("nobody")
            .with_secret_access_key("nothing");
        Arc::new(builder.build().unwrap())
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Where the packages are. One test of a process installs them, the others wait.
fn install() -> Result<PathBuf, String> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let tools = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("s3-server");
    let whole = tools.join(PACKAGES.join(" "));
    if whole.exists() {
        return Ok(tools);
    }
    // What an installation that was cut has left would be in the way.
    let _ = std::fs::remove_dir_all(&tools);
    let installed = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
        .arg(&tools)
        .args(PACKAGES)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("python3 does not start: {error}"))?;
    if !installed.status.success() {
        let said = String::from_utf8_lossy(&installed.stderr);
        return Err(format!("moto cannot be installed: {}", said.lines().last().unwrap_or("pip says nothing")));
    }
    std::fs::write(&whole, "").map_err(|error| format!("{}: {error}", whole.display()))?;
    Ok(tools)
}
