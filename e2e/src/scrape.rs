//! What a stage tells at `/metrics`, read strictly.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, ensure};

/// One number with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name, with endings such as `_total` or `_bucket`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

/// Everything of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Scrape {
    /// The numbers in their order.
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Reads the text form of OpenMetrics; refuses what Prometheus would refuse.
    pub fn parse(text: &str) -> anyhow::Result<Scrape> {
        ensure!(text.ends_with("# EOF\n"), "the answer has no end");
        let (mut samples, mut told) = (Vec::new(), HashSet::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let sample = parse_line(line).with_context(|| format!("line `{line}`"))?;
            let is_new = told.insert((sample.name.clone(), sample.labels.clone()));
            ensure!(is_new, "`{line}` is told twice");
            samples.push(sample);
        }
        Ok(Scrape { samples })
    }

    /// Adds up the numbers of a name whose labels include these; 0 where there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// Tells whether there is a number of this name.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

fn parse_line(line: &str) -> anyhow::Result<Sample> {
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = series.split_once('{').context("no labels")?;
    let mut found = BTreeMap::new();
    let mut rest = labels.strip_suffix('}').context("labels do not end")?;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").context("a label without a value")?;
        let (value, after) = after.split_once('"').context("a label's value does not end")?;
        ensure!(found.insert(key.to_owned(), value.to_owned()).is_none(), "label {key} stands twice");
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Ok(Sample { name: name.to_owned(), labels: found, value: value.parse()? })
}
