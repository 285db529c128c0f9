use std::fs::{File, create_dir_all};
use std::io::Write as _;
use std::path::Path;

use super::*;

/// Writes a file and the folders above it.
pub(super) fn put(path: &Path, content: &[u8]) {
    create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().write_all(content).unwrap();
}

#[test]
fn the_worst_finding_decides_and_all_are_told() {
    let check = |findings: Vec<Outcome>, expected: Outcome| assert_eq!(Outcome::worst(findings), expected);
    let (ok, warning) = (Outcome::ok("a"), Outcome::warning("b", "do b"));
    let (failed, skipped) = (Outcome::failed("c", "do c"), Outcome::skipped("d"));
    check(vec![], Outcome::skipped(""));
    check(vec![ok.clone(), skipped.clone()], Outcome::ok("a; d"));
    check(vec![ok.clone(), warning.clone()], Outcome::warning("a; b", "do b"));
    check(vec![failed.clone(), warning, ok], Outcome::failed("c; b; a", "do c; do b"));
    check(vec![failed.clone(), failed], Outcome::failed("c; c", "do c"));
    check(vec![skipped], Outcome::skipped("d"));
}

/// The whole report for a box whose files lie in `dir`.
fn examined(dir: &Path, config: &str, json: bool) -> (bool, String) {
    put(&dir.join("mast.toml"), config.as_bytes());
    let args = DoctorArgs {
        config: Some(dir.join("mast.toml")),
        data_dir: Some(dir.join("data")),
        model_repository: Some(dir.join("models")),
        json,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut out = Vec::new();
    let ok = runtime.block_on(async {
        let subject = examine(&args).await;
        report(&subject, json, &mut out).await.unwrap()
    });
    (ok, String::from_utf8(out).unwrap())
}

const FREE_PORTS: &str = "[listen]\nhttp = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n";

#[test]
fn a_line_for_each_check_with_the_daemon_down() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("models/a/1/model.onnx"), b"x");
    let (_, text) = examined(dir.path(), FREE_PORTS, false);
    let word = |name: &str| {
        let line = text.lines().find(|line| line.get(9..).is_some_and(|rest| rest.starts_with(name)));
        line.and_then(|line| line.split_whitespace().next()).map(str::to_owned)
    };
    for (name, expected) in [
        ("configuration", "ok"),
        ("policy", "ok"),
        ("providers", "ok"),
        ("ports", "ok"),
        ("data directory", "ok"),
        ("model repository", "ok"),
        ("broker", "skipped"),
        ("certificates", "skipped"),
        ("listener tls", "skipped"),
        ("agent", "warning"),
    ] {
        assert_eq!(word(name).as_deref(), Some(expected), "{name} in\n{text}");
    }
    assert!(text.contains("cure: start it"), "{text}");
}

#[test]
fn a_wrong_configuration_fails_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (ok, text) = examined(dir.path(), "[serve]\nqueue_limt = 1\n", true);
    assert!(!ok);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["ok"], false);
    let find = |name: &str| {
        report["checks"].as_array().unwrap().iter().find(|line| line["name"] == name).unwrap().clone()
    };
    assert_eq!(find("configuration")["outcome"], "failed");
    assert!(find("configuration")["text"].as_str().unwrap().contains("queue_limt"), "{text}");
    assert!(find("configuration")["cure"].as_str().is_some());
    assert_eq!(find("ports")["outcome"], "skipped");
    assert_ne!(find("data directory")["outcome"], "skipped");
}
