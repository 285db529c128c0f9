//! `mast keys`: keys for the clients of the inference API (docs/specs/wire.md, "Who may call").

use std::io::{self, Write as _};

use clap::{Args, Subcommand};
use toml::{Table, Value};

use super::{complain, print};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key: it is shown once, on stderr; the entry for the file of [listen.keys], with the key's digest, goes
    /// to stdout
    New(NewArgs),
}

#[derive(Debug, Args)]
struct NewArgs {
    /// A name for the log and for people, once in the file: letters, digits, '.', '_', '-'
    #[arg(long)]
    id: String,
    /// Whose data the client sends; without it the Mast-Tenant header says
    #[arg(long)]
    tenant: Option<String>,
    /// A model it may use, with * for any characters; may be given several times; without it, all
    #[arg(long = "model")]
    models: Vec<String>,
    /// May load and unload models
    #[arg(long)]
    admin: bool,
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("the system has no randomness to give")]
    Random,
    #[error("the entry would be refused: {detail}")]
    Entry { detail: String },
}

pub(crate) fn run(args: &KeysArgs) -> Exit {
    let Action::New(args) = &args.action;
    match make(args) {
        Ok((key, entry)) => {
            // A closed stderr must not lose the key in silence: then nothing is printed at all.
            let shown = writeln!(io::stderr(), "the key, shown once: {key}");
            shown.map_or_else(|error| complain(&error), |()| print(entry.as_bytes()))
        }
        Err(error) => complain(&error),
    }
}

fn make(args: &NewArgs) -> Result<(String, String), KeysError> {
    let made = front::new_key().ok_or(KeysError::Random)?;
    let mut entry = Table::new();
    let mut set = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    set("id", args.id.clone().into());
    set("sha256", made.sha256.into());
    if let Some(tenant) = &args.tenant {
        set("tenant", tenant.clone().into());
    }
    if !args.models.is_empty() {
        set("models", args.models.clone().into());
    }
    if args.admin {
        set("admin", true.into());
    }
    let text = format!("\n[[key]]\n{entry}");
    front::check_keys(&text).map_err(|detail| KeysError::Entry { detail })?;
    Ok((made.key, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(id: &str, tenant: Option<&str>, models: &[&str], admin: bool) -> NewArgs {
        NewArgs {
            id: id.to_owned(),
            tenant: tenant.map(str::to_owned),
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            admin,
        }
    }

    #[test]
    fn an_entry_holds_what_was_asked_for_and_not_the_key() {
        let check = |args: NewArgs, lines: &[&str], absent: &[&str]| {
            let (key, entry) = make(&args).unwrap();
            assert!(key.starts_with("mast_") && key.len() == 69, "{key}");
            assert!(!entry.contains(&key));
            for line in lines {
                assert!(entry.lines().any(|got| got == *line), "{entry} has no {line}");
            }
            for word in absent {
                assert!(!entry.contains(word), "{entry} has {word}");
            }
        };
        check(
            args("cam-1", None, &[], false),
            &["[[key]]", "id = \"cam-1\""],
            &["tenant", "models", "admin"],
        );
        let full = args("boss", Some("acme \"x\""), &["yolo*", "b"], true);
        check(full, &["tenant = 'acme \"x\"'", "models = [\"yolo*\", \"b\"]", "admin = true"], &[]);
    }

    #[test]
    fn entries_follow_each_other_in_one_file() {
        let file: String = ["a", "b"].map(|id| make(&args(id, None, &[], false)).unwrap().1).concat();
        assert_eq!(front::check_keys(&file), Ok(()));
        assert!(front::check_keys(&format!("{file}{file}")).is_err());
    }

    #[test]
    fn what_the_agent_would_refuse_is_not_made() {
        for wrong in
            [args("a b", None, &[], false), args("a", Some(""), &[], false), args("a", None, &[""], false)]
        {
            assert!(make(&wrong).is_err(), "{wrong:?}");
        }
    }
}
