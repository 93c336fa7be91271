//! The binary as a process of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::secrets;

const START_LINE: &str = "tiltyard listening on http";
/// Long enough for any start or end.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Stands before the first key of a catalog, which is shown this once.
const FIRST_KEY: &str = "shown this once: ";

/// The binary with its arguments. What it prints is looked through for secrets.
pub struct Program {
    command: Command,
    /// Whether it prints a key, alone on its last line.
    makes_key: bool,
}

impl Deref for Program {
    type Target = Command;

    fn deref(&self) -> &Command {
        &self.command
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut Command {
        &mut self.command
    }
}

impl Program {
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    pub fn output(&mut self) -> std::io::Result<Output> {
        let output = self.command.output()?;
        let mut out = String::from_utf8_lossy(&output.stdout).into_owned();
        if let (true, Some(key)) = (self.makes_key, out.lines().last().map(str::to_owned)) {
            secrets::register_key(&key);
            out = out.replacen(&key, "", 1);
        }
        for text in [out.as_bytes(), &output.stderr] {
            secrets::assert_none_in(&format!("what {:?} prints", self.command), text);
        }
        Ok(output)
    }
}

/// The binary, in a folder of its own and without settings from outside.
pub fn tiltyard(home: &Path, arguments: &[&str]) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiltyard"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TILTYARD_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).current_dir(home);
    command.stdin(Stdio::null());
    let makes_key = matches!(arguments, ["key", "create" | "rotate", ..]);
    Program { command, makes_key }
}

/// A running `tiltyard serve`, killed when dropped.
pub struct Serving {
    child: Child,
    /// What it printed before it listened.
    pub before: Vec<String>,
    /// The line that says where it listens.
    pub line: String,
    /// `http://host:port`, or with `https`.
    pub base: String,
    lines: mpsc::Receiver<String>,
}

impl Serving {
    /// Starts it and waits for the line that says where it listens.
    pub fn start(mut command: Program) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().expect("its output");
        let err = child.stderr.take().expect("its error output");
        forward(out, sender.clone());
        forward(err, sender);
        let mut before = Vec::new();
        let line = loop {
            let line = lines.recv_timeout(LIMIT);
            let line = line.unwrap_or_else(|error| panic!("no start-up line, {error}: {before:?}"));
            if line.contains(START_LINE) {
                break line;
            }
            before.push(line);
        };
        let base = line.split_whitespace().find(|word| word.starts_with("http"));
        let base = base.unwrap_or_default().to_owned();
        Self { child, before, line, base, lines }
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// What it printed since it listens, or since this was asked last.
    pub fn printed(&self) -> String {
        self.lines.try_iter().map(|line| line + "\n").collect()
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        let signal =
            Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
        assert!(signal.expect("sh runs").success(), "the signal was not sent");
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the state of the process") {
                return status;
            }
            assert!(asked.elapsed() < LIMIT, "it does not stop at SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            secrets::assert_none_found();
        }
    }
}

/// Reads a stream to its end, so that the process never waits for a reader.
fn forward(stream: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            match line.split_once(FIRST_KEY) {
                Some((_, key)) => secrets::register_key(key),
                None => secrets::look_in("what a server prints", line.as_bytes()),
            }
            let _ = lines.send(line);
        }
    });
}
