//! `mastfw`: the box below the agent.
//!
//! `mastfw inventory` reads what the box is made of from sysfs and procfs, as root or not, and changes
//! nothing. A value the box does not tell is absent, never guessed.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line program: its answer is what it prints")]
#![allow(clippy::print_stderr, reason = "a command line program: its complaint goes to stderr")]

mod inventory;
mod sysfs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tools for the box below the Mast agent.
#[derive(Debug, Parser)]
#[command(name = "mastfw", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What this box is made of: board, firmware, processor, memory, accelerators, disks, network
    Inventory {
        /// JSON instead of lines
        #[arg(long)]
        json: bool,
        /// Root of the file system to read, for an image that is mounted elsewhere
        #[arg(long, default_value = "/")]
        root: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Inventory { json, root } = Cli::parse().command;
    if !root.join("sys").is_dir() {
        eprintln!("mastfw: {} has no sys folder: mount sysfs there or name another --root", root.display());
        return ExitCode::FAILURE;
    }
    let inventory = inventory::read(&root);
    if json {
        match serde_json::to_string_pretty(&inventory) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("mastfw: cannot write the inventory as JSON: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        print!("{inventory}");
    }
    ExitCode::SUCCESS
}
