//! The log level while the agent runs: Mast's own `/control/log`, and `/v2/logging` in the shape of Triton's
//! "logging" extension, which knows a level but no targets. Both are for an administrator.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wire::{Error, ErrorCode};

use crate::access::Principal;
use crate::app::App;
use crate::fault::Fault;
use crate::json::Whole;
use crate::repository::parse;

/// Reads the log level with `None`, sets it otherwise; the answer is what is in force. The words are those of
/// the configuration's `log.level`; the error says what is wrong with them.
pub type LogLevel = Arc<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Level {
    level: String,
}

pub(crate) async fn level(State(app): State<Arc<App>>) -> Result<Json<Level>, Fault> {
    Ok(Json(Level { level: ask(&app, None)? }))
}

pub(crate) async fn set_level(
    State(app): State<Arc<App>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Level>, Fault> {
    let Level { level } = parse(body)?;
    Ok(Json(Level { level: ask(&app, Some(&level))? }))
}

pub(crate) async fn settings(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> Result<Json<Value>, Fault> {
    principal.administer()?;
    Ok(Json(Settings::of(&ask(&app, None)?).json()))
}

pub(crate) async fn set_settings(
    State(app): State<Arc<App>>,
    principal: Principal,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Fault> {
    principal.administer()?;
    let wanted: Map<String, Value> = parse(body)?;
    let mut settings = Settings::of(&ask(&app, None)?);
    for (key, value) in &wanted {
        settings.set(key, value)?;
    }
    let level = if wanted.is_empty() { None } else { Some(settings.level()) };
    Ok(Json(Settings::of(&ask(&app, level)?).json()))
}

fn ask(app: &App, level: Option<&str>) -> Result<String, Fault> {
    let Some(ask) = &app.log_level else {
        return Err(Error::new(ErrorCode::Unsupported, "the log level cannot be changed here").into());
    };
    Ok(ask(level).map_err(Error::invalid)?)
}

/// Triton's settings. `log_info` and the like switch one kind of line on or off; a level cannot switch off the graver
/// kinds and keep the others, so the gravest that is off decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    error: bool,
    warning: bool,
    info: bool,
    verbose: u64,
}

impl Settings {
    /// Of the level for everything that no target names.
    fn of(levels: &str) -> Self {
        let level = levels.split(',').map(str::trim).rfind(|word| !word.contains('='));
        let rank = match level.map(str::to_ascii_lowercase).as_deref() {
            Some("trace") => 5,
            Some("debug") => 4,
            Some("info") => 3,
            Some("warn") => 2,
            Some("error") => 1,
            _ => 0_u64,
        };
        Self { error: rank >= 1, warning: rank >= 2, info: rank >= 3, verbose: rank.saturating_sub(3) }
    }

    fn level(self) -> &'static str {
        match self {
            Self { error: false, .. } => "off",
            Self { warning: false, .. } => "error",
            Self { info: false, .. } => "warn",
            Self { verbose: 0, .. } => "info",
            Self { verbose: 1, .. } => "debug",
            _ => "trace",
        }
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), Error> {
        let wrong = |what: &str| Error::invalid(format!("'{key}' must be {what}"));
        let flag = || value.as_bool().ok_or_else(|| wrong("true or false"));
        match key {
            "log_error" => self.error = flag()?,
            "log_warning" => self.warning = flag()?,
            "log_info" => self.info = flag()?,
            "log_verbose_level" => {
                let Whole(level) = Whole::deserialize(value).map_err(|_| wrong("a whole number from 0"))?;
                self.verbose = level;
            }
            "log_file" if value == "" => {}
            "log_format" if value == "default" => {}
            "log_file" | "log_format" => {
                let text = format!("'{key}' cannot be changed while the agent runs");
                return Err(Error::new(ErrorCode::Unsupported, text));
            }
            _ => return Err(Error::invalid("a log setting has an unknown name")),
        }
        Ok(())
    }

    fn json(self) -> Value {
        json!({
            "log_file": "",
            "log_info": self.info,
            "log_warning": self.warning,
            "log_error": self.error,
            "log_verbose_level": self.verbose,
            "log_format": "default",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_settings_and_back() {
        for level in ["off", "error", "warn", "info", "debug", "trace"] {
            assert_eq!(Settings::of(level).level(), level);
        }
        assert_eq!(Settings::of("info,mast_serve=debug").level(), "info");
        assert_eq!(Settings::of("mast_serve=debug").level(), "off");
    }

    #[test]
    fn a_setting_changes_the_level() {
        let check = |before: &str, key: &str, value: Value, after: Option<&str>| {
            let mut settings = Settings::of(before);
            let level = settings.set(key, &value).ok().map(|()| settings.level());
            assert_eq!(level, after, "{before} {key} {value}");
        };
        check("info", "log_verbose_level", json!(1), Some("debug"));
        check("info", "log_verbose_level", json!(7), Some("trace"));
        check("info", "log_verbose_level", json!(1.0), Some("debug"));
        check("trace", "log_verbose_level", json!(0), Some("info"));
        check("debug", "log_info", json!(false), Some("warn"));
        check("info", "log_warning", json!(false), Some("error"));
        check("info", "log_error", json!(false), Some("off"));
        check("warn", "log_info", json!(true), Some("info"));
        check("info", "log_file", json!(""), Some("info"));
        check("info", "log_file", json!("/etc/passwd"), None);
        check("info", "log_format", json!("ISO8601"), None);
        check("info", "log_verbose_level", json!(-1), None);
        check("info", "log_info", json!("yes"), None);
        check("info", "log_everything", json!(true), None);
    }
}
