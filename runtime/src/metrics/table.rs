//! The metrics as a table for the documentation, and the check that it stands there.

use super::{Metrics, lock};

impl Metrics {
    /// Returns a Markdown table of what is registered.
    pub fn table(&self) -> String {
        let mut lines =
            vec!["| Name | Kind | Labels | Means |".to_owned(), "| --- | --- | --- | --- |".to_owned()];
        lines.extend(lock(&self.0.described).iter().map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, labels) = (metric.name, metric.kind, labels.join(", "));
            format!("| `{name}` | {kind} | {labels} | {} |", metric.help.trim_end_matches('.'))
        }));
        lines.join("\n") + "\n"
    }

    /// Fails, and says what has to stand there, unless the section of the document with this heading holds the table.
    pub fn check_documented(&self, document: &str, heading: &str) -> Result<(), String> {
        let table = self.table();
        let found = document.split_once(&format!("{heading}\n")).map(|(_, rest)| rest.trim_start());
        match found {
            Some(section) if section.starts_with(&table) => Ok(()),
            _ => Err(format!("docs/observing.md has to hold under `{heading}`:\n\n{table}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PortalMetrics, ShellMetrics, shell::register_process};
    use super::*;
    use crate::health::Health;

    const DOCUMENT: &str = include_str!("../../../docs/observing.md");

    #[test]
    fn what_every_stage_tells_is_documented() {
        let metrics = Metrics::new("test");
        let _refresh = register_process(&metrics, Health::default(), "1");
        let _shell = ShellMetrics::register(&metrics);
        metrics.check_documented(DOCUMENT, "### Every stage").unwrap_or_else(|what| panic!("{what}"));
    }

    #[test]
    fn what_is_told_of_bitrix24_is_documented() {
        let metrics = Metrics::new("test");
        PortalMetrics::register(&metrics);
        crate::budget::BucketMetrics::register(&metrics);
        metrics
            .check_documented(DOCUMENT, "### Stages that call Bitrix24")
            .unwrap_or_else(|what| panic!("{what}"));
    }

    #[test]
    fn another_table_is_found_out() {
        let metrics = Metrics::new("test");
        metrics.counter("rollcall_new_total", "New.");
        assert!(metrics.check_documented(DOCUMENT, "### Every stage").is_err());
    }
}
