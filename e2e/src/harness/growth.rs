//! What a long run's measurements say: from where to where, and whether they grow.

use std::collections::BTreeMap;
use std::fmt;

use super::curves::Sample;

/// Memory that counts as growth only where it is also a tenth, in KiB: below this it is noise.
const NOISE_KIB: u64 = 4 * 1024;

/// The same for open files: connections come and go.
const NOISE_FILES: u64 = 8;

/// Measurements of each process in their order.
#[derive(Clone, Debug, Default)]
pub struct Curves(BTreeMap<String, Vec<(u64, u64)>>);

/// One process over a whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Name of its program.
    pub name: String,
    /// Least and most memory, in KiB.
    pub memory_kib: (u64, u64),
    /// Middle of the memory in the second quarter, when it is warm, and in the last, in KiB.
    pub from_to_kib: (u64, u64),
    /// Fewest and most open files.
    pub files: (u64, u64),
    /// Middle of the open files in the second quarter and in the last.
    pub from_to_files: (u64, u64),
}

impl Curves {
    /// Takes a measurement in.
    pub fn note(&mut self, samples: &[Sample]) {
        for sample in samples {
            self.0.entry(sample.name.clone()).or_default().push((sample.memory_kib, sample.files));
        }
    }

    /// Sums each process up.
    pub fn summary(&self) -> Vec<Curve> {
        let summed = self.0.iter().map(|(name, points)| {
            let (memory, files): (Vec<u64>, Vec<u64>) = points.iter().copied().unzip();
            Curve {
                name: name.clone(),
                memory_kib: bounds(&memory),
                from_to_kib: from_to(&memory),
                files: bounds(&files),
                from_to_files: from_to(&files),
            }
        });
        summed.collect()
    }
}

impl Curve {
    /// Tells whether its memory grows, or the number of its open files.
    pub fn grows(&self) -> bool {
        let grows = |(from, to): (u64, u64), noise: u64| to > from + (from / 10).max(noise);
        grows(self.from_to_kib, NOISE_KIB) || grows(self.from_to_files, NOISE_FILES)
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Curve { name, memory_kib: (least, most), from_to_kib: (from, to), files: (fewest, all), .. } =
            self;
        let growth = (*to as f64 / (*from).max(1) as f64 - 1.0) * 100.0;
        write!(
            f,
            "{name}: memory {} to {} MiB, {growth:+.1} % from the second quarter to the last; open files {fewest} to {all}, \
             {} in the second quarter and {} in the last",
            least / 1024,
            most / 1024,
            self.from_to_files.0,
            self.from_to_files.1
        )
    }
}

fn bounds(values: &[u64]) -> (u64, u64) {
    (values.iter().copied().min().unwrap_or(0), values.iter().copied().max().unwrap_or(0))
}

/// Returns the middle of the second quarter, when a process is warm, and of the last.
fn from_to(values: &[u64]) -> (u64, u64) {
    let quarter = values.len() / 4;
    (middle(&values[quarter..quarter * 2]), middle(&values[values.len() - quarter..]))
}

fn middle(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(memory: impl Iterator<Item = u64>) -> Curve {
        let mut curves = Curves::default();
        for memory_kib in memory {
            curves.note(&[Sample {
                name: "pusher".into(),
                memory_kib,
                highest_kib: memory_kib,
                files: memory_kib % 7,
            }]);
        }
        curves.summary().remove(0)
    }

    #[test]
    fn warming_up_is_no_growth_and_a_leak_is() {
        let warm = curve((0..100).map(|n| 20_000 + 200 * n.min(20)));
        assert!(!warm.grows(), "{warm}");
        let leaking = curve((0..100).map(|n| 20_000 + 200 * n));
        assert!(leaking.grows(), "{leaking}");
        assert_eq!((leaking.memory_kib, leaking.files), ((20_000, 39_800), (0, 6)));
        assert!(leaking.to_string().starts_with("pusher: memory 19 to 38 MiB, +"), "{leaking}");
    }

    #[test]
    fn files_that_are_never_closed_are_growth() {
        let open = |files: fn(u64) -> u64| {
            let mut curves = Curves::default();
            for number in 0..100 {
                let (memory_kib, highest_kib) = (20_000, 20_000);
                let name = "pusher".to_owned();
                curves.note(&[Sample { name, memory_kib, highest_kib, files: files(number) }]);
            }
            curves.summary().remove(0)
        };
        assert!(open(|number| 20 + number / 4).grows());
        assert!(!open(|number| 20 + number % 7).grows());
    }

    #[test]
    fn few_measurements_are_summed_up_as_well() {
        assert!(!curve([1, 2, 3].into_iter()).grows());
    }
}
