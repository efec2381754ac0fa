//! The status for Prometheus, under the daemon's names: what watches the machine continues to.

use std::fmt::Write as _;

use super::{Phase, Status};

/// States that re-imaging may be in, as the daemon has them (`agent/holdfast/reimage/models.py`).
const STATES: [&str; 11] = [
    "idle",
    "staging",
    "staged",
    "armed",
    "rebooting",
    "imaging",
    "booted",
    "confirmed",
    "unconfirmed",
    "unknown",
    "failed",
];

/// The text that Prometheus reads.
pub fn render(status: &Status) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |labels: &str, value: u64| vec![(labels.to_owned(), value)];
    let reimage = r#"{kind="reimage"}"#;
    family(
        "holdfast_build_info",
        "gauge",
        "Always 1; the version is a label.",
        &one(&format!(r#"{{version="{}"}}"#, env!("CARGO_PKG_VERSION")), 1),
    );
    let states =
        STATES.map(|state| (format!(r#"{{state="{state}"}}"#), u64::from(state == "imaging")));
    family(
        "holdfast_reimage_state",
        "gauge",
        "1 for the state that re-imaging is in, 0 for every other.",
        &states,
    );
    let phase = status.phase();
    let phases = Phase::ALL
        .map(|each| (format!(r#"{{phase="{}"}}"#, each.name()), u64::from(each == phase)));
    family(
        "holdfast_reimage_phase",
        "gauge",
        "1 for the phase that the imager is in, 0 for every other.",
        &phases,
    );
    family(
        "holdfast_reimage_retries_total",
        "counter",
        "Tries of the imager that failed.",
        &one("", status.retries()),
    );
    family("holdfast_operation_running", "gauge", "Operations that run now.", &one(reimage, 1));
    family(
        "holdfast_operation_progress_bytes",
        "gauge",
        "Bytes that the running operation dealt with in its phase.",
        &one(reimage, status.bytes_done()),
    );
    if let Some(expected) = status.bytes_expected() {
        family(
            "holdfast_operation_expected_bytes",
            "gauge",
            "Bytes that the running operation will deal with in its phase.",
            &one(reimage, expected),
        );
    }
    family(
        "holdfast_operation_last_progress_timestamp_seconds",
        "gauge",
        "When the running operation last made progress.",
        &one(reimage, status.last_progress()),
    );
    text
}
