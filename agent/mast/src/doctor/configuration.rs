use super::{Outcome, Subject};

/// The configuration can be read, knows every key, and its parts agree.
pub(super) fn check(subject: &Subject) -> Outcome {
    match (&subject.config, &subject.config_file) {
        (Ok(_), Some(path)) => Outcome::ok(format!("{} is valid", path.display())),
        (Ok(_), None) => Outcome::ok("no file given: the defaults"),
        (Err(error), _) => Outcome::failed(
            error.replace('\n', " "),
            "correct the key it names; every key with its default is in deploy/config/mast.toml",
        ),
    }
}
