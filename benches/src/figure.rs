//! A measured figure beside its least, its demand and its stretch; and a table of them.

use std::fmt::Write;

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Demand {
    /// Not above the demand; better not above the stretch.
    AtMost { demand: f64, stretch: f64 },
    /// Not below the demand; better not below the stretch.
    AtLeast { demand: f64, stretch: f64 },
    /// Shown for comparison; nothing is demanded.
    None,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name: P1.
    pub name: &'static str,
    /// What was measured, with the unit.
    pub what: String,
    /// The arithmetic minimum, where there is one.
    pub least: Option<f64>,
    /// What is demanded.
    pub demand: Demand,
    /// What came out.
    pub measured: f64,
}

impl Figure {
    /// Returns a figure that nothing is demanded of yet.
    pub fn new(name: &'static str, what: impl Into<String>, measured: f64) -> Figure {
        Figure { name, what: what.into(), least: None, demand: Demand::None, measured }
    }

    /// Sets the arithmetic minimum.
    pub fn least(self, least: f64) -> Figure {
        Figure { least: Some(least), ..self }
    }

    /// Demands at most this much.
    pub fn at_most(self, demand: f64, stretch: f64) -> Figure {
        Figure { demand: Demand::AtMost { demand, stretch }, ..self }
    }

    /// Demands at least this much.
    pub fn at_least(self, demand: f64, stretch: f64) -> Figure {
        Figure { demand: Demand::AtLeast { demand, stretch }, ..self }
    }

    /// Demands that there be none of it.
    pub fn none_allowed(self) -> Figure {
        self.at_most(0.0, 0.0)
    }

    fn verdict(&self) -> String {
        match self.demand {
            Demand::None => String::new(),
            Demand::AtMost { demand, stretch } => verdict(self.measured, demand, stretch, |a, b| a <= b),
            Demand::AtLeast { demand, stretch } => verdict(self.measured, demand, stretch, |a, b| a >= b),
        }
    }

    fn cells(&self) -> [String; 7] {
        let demand = match self.demand {
            Demand::None => String::new(),
            Demand::AtMost { demand: 0.0, .. } => "0".to_owned(),
            Demand::AtMost { demand, stretch } => demanded('≤', demand, stretch),
            Demand::AtLeast { demand, stretch } => demanded('≥', demand, stretch),
        };
        let ratio = self.least.filter(|least| *least > 0.0).map(|least| self.measured / least);
        [
            self.name.to_owned(),
            self.what.clone(),
            self.least.map(number).unwrap_or_default(),
            demand,
            number(self.measured),
            ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            self.verdict(),
        ]
    }
}

fn demanded(sign: char, demand: f64, stretch: f64) -> String {
    let better = if stretch == demand { String::new() } else { format!(" ({})", number(stretch)) };
    format!("{sign} {}{better}", number(demand))
}

fn verdict(measured: f64, demand: f64, stretch: f64, holds: impl Fn(f64, f64) -> bool) -> String {
    if holds(measured, stretch) {
        return if demand == stretch { "met" } else { "met, stretch too" }.to_owned();
    }
    if holds(measured, demand) {
        return "met".to_owned();
    }
    if demand == 0.0 {
        return format!("MISSED by {}", number(measured));
    }
    format!("MISSED by {:.0} %", 100.0 * (measured / demand - 1.0).abs())
}

fn number(number: f64) -> String {
    if number.fract().abs() < 1e-9 {
        format!("{number:.0}")
    } else if number.abs() >= 100.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.2}")
    }
}

/// Renders a table that is readable as it stands and is Markdown.
pub fn table(figures: &[Figure]) -> String {
    let head = ["", "figure", "least", "demand (stretch)", "measured", "ratio", "verdict"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(figures.iter().map(Figure::cells)).collect();
    let widths: Vec<usize> =
        (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if index == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_tell_by_how_much_a_figure_misses() {
        let figure = Figure::new("P1", "requests", 400.0).least(311.0).at_most(389.0, 327.0);
        assert_eq!(figure.verdict(), "MISSED by 3 %");
        let within = Figure { measured: 350.0, ..figure.clone() };
        assert_eq!(within.verdict(), "met");
        let best = Figure { measured: 320.0, ..figure };
        assert_eq!(best.verdict(), "met, stretch too");
        assert_eq!(Figure::new("P2", "refused", 0.0).none_allowed().verdict(), "met");
        assert_eq!(Figure::new("P2", "refused", 3.0).none_allowed().verdict(), "MISSED by 3");
        assert_eq!(Figure::new("P15", "ratio", 0.63).at_least(0.7, 0.9).verdict(), "MISSED by 10 %");
    }

    #[test]
    fn columns_of_a_table_line_up() {
        let table = table(&[Figure::new("P1", "Anfragen ≤", 1.5), Figure::new("P15", "x", 20.0)]);
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}
