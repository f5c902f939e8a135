//! The program: what it says when its configuration is bad, and that it ends when asked to.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-gateway"));
    command.env_clear();
    command
}

#[test]
fn a_bad_configuration_is_one_clear_line_and_a_failure() {
    for (name, value, parts) in [
        ("BERTH_LISTEN", "8080", ["listen", "\"8080\"", "BERTH_LISTEN"]),
        ("BERTH_BODY_TIMEOUT", "soon", ["body_timeout", "soon", "BERTH_BODY_TIMEOUT"]),
        ("BERTH_COLOUR", "red", ["colour", "not a key", "BERTH_COLOUR"]),
        ("BERTH_CONFIG", "/nowhere.toml", ["/nowhere.toml", "cannot read", "berth-gateway:"]),
    ] {
        let output = program().env(name, value).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn the_program_serves_until_it_is_asked_to_end() {
    let mut child = program()
        .env("BERTH_LISTEN", "127.0.0.1:0")
        .env("BERTH_ADMIN_LISTEN", "127.0.0.1:0")
        .env("BERTH_TELEMETRY__FORMAT", "json")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let started = lines.by_ref().map_while(Result::ok).find(|line| line.contains("the gateway is serving"));
    assert!(started.is_some());
    let ended = Command::new("kill").arg(child.id().to_string()).status();
    assert!(ended.unwrap().success());
    assert!(child.wait().unwrap().success());
    assert!(lines.map_while(Result::ok).any(|line| line.contains("the gateway has ended")));
}
