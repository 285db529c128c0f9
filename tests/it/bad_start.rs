//! What must not start does not, says why in words of the operator, and ends with its own exit code.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use harness::{Setup, Tmpfs, files, mounting_is_possible, workspace};

const BAD_CONFIG: i32 = 64;
const NO_RUNTIME: i32 = 65;
const CANNOT_LISTEN: i32 = 66;
const BAD_DATA_DIR: i32 = 67;

fn check(name: &str, setup: &Setup, code: i32, words: &[&str]) -> Result<()> {
    let (status, said) = setup.run_to_its_end()?;
    ensure!(status.code() == Some(code), "{name}: expected exit {code}, got {status}:\n{said}");
    for word in words {
        ensure!(said.contains(word), "{name}: does not say \"{word}\":\n{said}");
    }
    ensure!(!said.contains("panicked"), "{name} panicked:\n{said}");
    Ok(())
}

#[test]
fn bad_configuration() -> Result<()> {
    let config = |toml: &str| Setup::new().map(|setup| setup.config(toml));
    check("unknown key", &config("turbo = true")?, BAD_CONFIG, &["turbo"])?;
    check("unknown key in a part", &config("[listen]\nhttpp = \"127.0.0.1:1\"")?, BAD_CONFIG, &["httpp"])?;
    check("not TOML", &config("[listen")?, BAD_CONFIG, &["mast.toml"])?;
    check("a wrong type", &config("[log]\nlevel = 5")?, BAD_CONFIG, &["level"])?;
    let hub = config("[hub]\nbroker = \"mqtt://127.0.0.1:1\"")?;
    check("a hub without a site", &hub, BAD_CONFIG, &["site"])?;
    let open = config("[listen]\nhttp = \"0.0.0.0:0\"")?;
    check("open to the network", &open, BAD_CONFIG, &["insecure_listen"])
}

#[test]
fn bad_policy() -> Result<()> {
    let policy = |toml: &str| Setup::new()?.policy(toml);
    check(
        "unknown key",
        &policy("version = 1\nfriendly = true\n")?,
        BAD_CONFIG,
        &["friendly", "policy.toml"],
    )?;
    check("not TOML", &policy("[[rule")?, BAD_CONFIG, &["policy.toml"])?;
    let missing = Setup::new()?.config("[policy]\npath = \"nowhere/policy.toml\"");
    check("not there", &missing, BAD_CONFIG, &["nowhere/policy.toml"])
}

#[test]
fn bad_runtime() -> Result<()> {
    let at = |path: &str| Setup::new().map(|setup| setup.env("ORT_DYLIB_PATH", path));
    check("no library", &at("nowhere/libonnxruntime.so")?, NO_RUNTIME, &["nowhere/libonnxruntime.so"])?;
    let dir = tempfile::tempdir()?;
    let text = dir.path().join("libonnxruntime.so");
    files::write(&text, "not a library")?;
    check("not a library", &at(&text.to_string_lossy())?, NO_RUNTIME, &["libonnxruntime.so"])?;
    // The ELF header of another machine: e_machine, bytes 18 and 19 (elf(5)).
    let mut library = std::fs::read(workspace::runtime_library()?)?;
    let other: u16 = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    library[18..20].copy_from_slice(&other.to_le_bytes());
    let foreign = dir.path().join("libonnxruntime.so.foreign");
    files::write(&foreign, &library)?;
    check(
        "another architecture",
        &at(&foreign.to_string_lossy())?,
        NO_RUNTIME,
        &["is built for", std::env::consts::ARCH],
    )?;
    // The symbol version is where a build says which one it is.
    let (new, old) = (b"VERS_1.28.0", b"VERS_1.27.0");
    let mut library = std::fs::read(workspace::runtime_library()?)?;
    let places: Vec<usize> =
        library.windows(new.len()).enumerate().filter(|(_, bytes)| bytes == new).map(|(at, _)| at).collect();
    ensure!(!places.is_empty(), "the pinned library does not say its version");
    for place in places {
        library[place..place + old.len()].copy_from_slice(old);
    }
    let aged = dir.path().join("libonnxruntime.so.1.27.0");
    files::write(&aged, &library)?;
    check("too old", &at(&aged.to_string_lossy())?, NO_RUNTIME, &["1.27.0", "1.28.0 or newer"])
}

#[test]
fn an_address_in_use() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let setup = Setup::new()?.config(&format!("[listen]\nhttp = \"{address}\"\nmetrics = \"127.0.0.1:0\""));
    check("in use", &setup, CANNOT_LISTEN, &[&address.to_string()])
}

#[test]
fn a_data_directory_that_cannot_be_used() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a-file");
    files::write(&file, "")?;
    check("a file", &Setup::new()?.data_dir_at(&file), BAD_DATA_DIR, &["a-file"])?;
    if mounting_is_possible()? {
        let disk = Tmpfs::mount(1 << 20)?;
        disk.make_read_only()?;
        check("read-only", &Setup::new()?.data_dir_at(disk.path().join("data")), BAD_DATA_DIR, &["data"])?;
    }
    let first = Setup::new()?.start()?;
    let second = Setup::new()?.data_dir_at(first.setup().data_dir());
    check("locked", &second, BAD_DATA_DIR, &["agent"])?;
    ensure!(first.status()?["ready"] == true, "the first one was hurt");
    Ok(())
}
