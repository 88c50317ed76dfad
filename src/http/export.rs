//! The rounds of a run as CSV.

use super::extract::Run;
use crate::coordinator::View;
use app::api::{ClientId, RoundSummary, RunId};
use axum::http::header;
use axum::response::IntoResponse;

const COLUMNS: [&str; 18] = [
    "round",
    "outcome",
    "base_version",
    "version",
    "config_version",
    "cohort",
    "updates",
    "rejected",
    "samples",
    "received_bytes",
    "mean_staleness",
    "train_loss",
    "test_loss",
    "test_accuracy",
    "opened_ms",
    "ended_ms",
    "lowered_weights",
    "reason",
];

/// The rounds as CSV, a row each. An apostrophe stands before a text that a spreadsheet would take for a formula.
#[utoipa::path(
    get, path = "/runs/{run}/export.csv", tag = "read", security(()), params(("run" = RunId, Path)),
    responses((
        status = 200, content_type = "text/csv", body = String,
        headers(("Content-Disposition" = String, description = "a file name for browsers")),
    )),
)]
pub async fn export(Run(run): Run) -> impl IntoResponse {
    let csv = run.feed().view(View::Export, |snapshot| csv(&snapshot.rounds)).bytes;
    let name = format!("attachment; filename=\"{}.csv\"", run.run());
    ([(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, name)], csv)
}

fn csv(rounds: &[RoundSummary]) -> Vec<u8> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    // Writing to a Vec cannot fail, and every record has as many cells.
    let written = csv.write_record(COLUMNS).and_then(|()| rounds.iter().try_for_each(|r| csv.write_record(cells(r))));
    written.expect("records of equal length are written to memory");
    csv.into_inner().expect("memory is flushed")
}

fn cells(r: &RoundSummary) -> [String; 18] {
    let lowered = r.lowered_weights.iter().flat_map(|lowered| &lowered.clients);
    [
        r.number.to_string(),
        r.outcome.to_string(),
        r.base_version.to_string(),
        or_empty(r.version),
        r.config_version.to_string(),
        r.cohort.to_string(),
        r.updates.to_string(),
        r.rejected.to_string(),
        r.samples.to_string(),
        r.received_bytes.to_string(),
        or_empty(r.mean_staleness),
        or_empty(r.train_loss),
        or_empty(r.test_loss),
        or_empty(r.test_accuracy),
        r.opened_ms.to_string(),
        r.ended_ms.to_string(),
        lowered.map(ClientId::as_str).collect::<Vec<_>>().join(" "),
        without_formula(&r.reason),
    ]
}

fn or_empty(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The text, after an apostrophe if a spreadsheet would take it for a formula. Spreadsheets hide the apostrophe; to get the
/// text back, remove one leading apostrophe.
fn without_formula(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\'']) { "'" } else { "" };
    format!("{guard}{text}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_an_export_is_a_formula_and_none_is_lost() {
        for formula in ["+1+1", "-2+3", "=1+1", "@SUM(1)", "\tx", "\rx", "'quoted"] {
            let cell = without_formula(formula);
            assert_eq!(cell.strip_prefix('\''), Some(formula), "one apostrophe more, and nothing else");
        }
        assert_eq!(without_formula("all updates in (3)"), "all updates in (3)");
    }

    #[test]
    fn a_reason_with_quotes_commas_and_line_breaks_is_one_cell() {
        let reason = "=1, \"two\"\nthree";
        let round = RoundSummary {
            number: 7,
            outcome: app::api::RoundOutcome::Void,
            reason: reason.to_owned(),
            base_version: 6,
            version: None,
            config_version: 1,
            cohort: 3,
            updates: 1,
            rejected: 0,
            samples: 10,
            received_bytes: 100,
            mean_staleness: Some(0.5),
            lowered_weights: None,
            train_loss: None,
            test_loss: None,
            test_accuracy: None,
            opened_ms: 1,
            ended_ms: 2,
        };
        let text = String::from_utf8(csv(&[round])).unwrap();
        let (header, row) = text.split_once('\n').unwrap();
        assert_eq!(header, COLUMNS.join(","));
        assert_eq!(row, "7,void,6,,1,3,1,0,10,100,0.5,,,,1,2,,\"'=1, \"\"two\"\"\nthree\"\n");
        assert_eq!(String::from_utf8(csv(&[])).unwrap(), format!("{header}\n"), "a run without rounds has a header");
    }
}
