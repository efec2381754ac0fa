//! What a trial found, row by row, for people and programs.

use serde::Serialize;

/// How something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It works.
    Passed,
    /// It works, but not as well as it could.
    Warning,
    /// The imager would fail with it.
    Failed,
    /// This machine could not try it.
    NotTried,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is.
    pub check: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was found, in sentences.
    pub detail: String,
    /// What to do about it, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// All rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// In the order in which things were tried.
    pub rows: Vec<Row>,
}

impl Rows {
    /// Add a row.
    pub fn add(&mut self, check: &'static str, outcome: Outcome, detail: impl Into<String>) {
        self.rows.push(Row { check, outcome, detail: detail.into(), advice: None });
    }

    /// Add a row with what to do.
    pub fn advise(
        &mut self,
        check: &'static str,
        outcome: Outcome,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.rows.push(Row { check, outcome, detail: detail.into(), advice: Some(advice.into()) });
    }
}
