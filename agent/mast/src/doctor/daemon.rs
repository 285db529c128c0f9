use super::{Outcome, Subject};
use crate::cli::client::ClientError;
use crate::cli::table;
use crate::exit::chain;
use crate::status::Status;

/// The agent answers on its control socket.
pub(super) fn check(subject: &Subject) -> Outcome {
    match &subject.agent {
        Ok(status) => judge(status),
        Err(ClientError::NotRunning { path, .. }) => Outcome::warning(
            format!("not running: nothing answers at {}", path.display()),
            "start it: systemctl start mast, or mast run",
        ),
        Err(error @ ClientError::Denied { .. }) => {
            Outcome::warning(error.to_string(), "join the group `mast`, or run the doctor with sudo")
        }
        Err(error) => Outcome::failed(
            chain(error),
            "look at its log (journalctl -u mast), then restart it: systemctl restart mast",
        ),
    }
}

fn judge(status: &Status) -> Outcome {
    let text = format!(
        "runs as process {}, version {}, for {}",
        status.pid,
        status.agent_version,
        table::seconds(status.uptime_s)
    );
    let waiting: Vec<&str> = status
        .models
        .iter()
        .filter(|model| model.state != "READY" && model.state != "BUILDING")
        .map(|model| model.name.as_str())
        .collect();
    if status.draining {
        Outcome::warning(format!("{text}; it is shutting down"), "wait for it to end")
    } else if !waiting.is_empty() {
        Outcome::warning(
            format!("{text}; not served: {}", waiting.join(", ")),
            "see the reasons: mast models",
        )
    } else if !status.ready {
        Outcome::warning(format!("{text}; it is not ready"), "wait while models load; see: mast models")
    } else {
        Outcome::ok(format!("{text}, ready"))
    }
}
