//! `mast log [LEVEL]`: the log level of the running agent, read or changed without a restart.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::client::{Client, ClientError, json_headers};
use super::{block_on, complain, print};
use crate::config::default_data_dir;
use crate::exit::Exit;

const PATH: &str = "/control/log";
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// off, error, warn, info, debug, trace, or targets as in info,mast_serve=debug. Without it, says which is in force.
    /// Holds until the agent ends; the configuration's log.level is for good
    level: Option<String>,
    /// Data directory of the agent, where its control socket is (default /var/lib/mast for root, else
    /// ~/.local/state/mast)
    #[arg(long, env = "MAST_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

pub(crate) fn run(args: &LogArgs) -> Exit {
    let client = Client::over_socket(&args.data_dir.clone().unwrap_or_else(default_data_dir));
    block_on(async {
        match ask(&client, args.level.as_deref()).await {
            Ok(level) => print(format!("{level}\n").as_bytes()),
            Err(error) => complain(&error),
        }
    })
}

/// The level in force, after it was set if one is given.
async fn ask(client: &Client, level: Option<&str>) -> Result<String, ClientError> {
    let answer: Value = match level {
        None => client.get_json(PATH, TIMEOUT).await?,
        Some(level) => {
            let body = Bytes::from(json!({ "level": level }).to_string());
            let answer = client.post(PATH, json_headers(), body, TIMEOUT).await?;
            if answer.status != StatusCode::OK {
                let message = answer.error_text();
                return Err(ClientError::Refused { status: answer.status, message });
            }
            let unreadable = |source| ClientError::Unreadable { path: PATH.to_owned(), source };
            serde_json::from_slice(&answer.body).map_err(unreadable)?
        }
    };
    Ok(answer["level"].as_str().unwrap_or_default().to_owned())
}
