use engine_ort::{LibraryReport, Telemetry};

use super::{Outcome, Subject};
use crate::exit::chain;

const CURE: &str = "install ONNX Runtime 1.28.0 (the last without the telemetry uploader) into /usr/lib/mast, or name \
                    its libonnxruntime.so in onnxruntime.library or ORT_DYLIB_PATH";

/// The library that would be opened is there, for this machine, new enough and without the uploader. Its file is
/// read; none of it runs.
pub(super) fn check(subject: &Subject) -> Outcome {
    let config = match subject.config() {
        Ok(config) => &config.onnxruntime,
        Err(outcome) => return outcome,
    };
    match engine_ort::examine(config) {
        Ok((report, telemetry)) => judge(&report, telemetry),
        Err(error) => Outcome::failed(chain(&error), CURE),
    }
}

fn judge(report: &LibraryReport, telemetry: Telemetry) -> Outcome {
    let version = report.version.as_deref().unwrap_or("unknown");
    let text = format!("{}, version {version}", report.path.display());
    match telemetry {
        Telemetry::None => Outcome::ok(format!("{text}, no telemetry uploader")),
        Telemetry::AllowedByName => Outcome::warning(
            format!("{text}, with the telemetry uploader, allowed by name"),
            "nothing is sent while ORT_DISABLE_TELEMETRY=1 holds; better use 1.28.0, which cannot send",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_could_send_is_a_warning_even_where_it_is_allowed() {
        let report = LibraryReport {
            path: "/usr/lib/mast/libonnxruntime.so".into(),
            version: Some("1.31.1".to_owned()),
            architecture: "x86_64",
            telemetry: true,
            size_bytes: 1,
        };
        assert_eq!(judge(&report, Telemetry::AllowedByName).word(), "warning");
        assert_eq!(judge(&LibraryReport { telemetry: false, ..report }, Telemetry::None).word(), "ok");
    }
}
