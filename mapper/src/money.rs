//! Amounts of money: decimal from the first digit to the last.

use std::fmt;
use std::str::FromStr;

use rust_decimal::{Decimal, RoundingStrategy};

use crate::php::Php;

/// Amounts from here on are no price of a ticket but a mistake.
const TOO_MUCH: u64 = 1_000_000_000;

/// Longest text that is read as a number; the longest sensible one has 20 digits.
const MAX_BYTES: usize = 64;

/// An amount of money, exactly as Bitrix24 sent it. May be below zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rubles(Decimal);

/// A text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an amount of money")]
pub struct NoAmount;

impl Rubles {
    /// Reads a number, with an exponent or without; a decimal comma will do.
    pub fn parse(text: &str) -> Result<Rubles, NoAmount> {
        let amount = decimal(text).ok_or(NoAmount)?;
        if amount.abs() < Decimal::from(TOO_MUCH) { Ok(Rubles(amount)) } else { Err(NoAmount) }
    }

    /// Returns the amount in whole kopecks; half a kopeck goes up, away from zero.
    pub fn rounded(self) -> Rubles {
        Rubles(self.0.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero))
    }

    /// Tells an amount below zero.
    pub fn is_negative(self) -> bool {
        self.0 < Decimal::ZERO
    }

    /// Tells an amount of nothing.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// Returns the difference.
    pub fn minus(self, other: Rubles) -> Rubles {
        Rubles(self.0 - other.0)
    }

    /// Returns the sum.
    pub fn plus(self, other: Rubles) -> Rubles {
        Rubles(self.0 + other.0)
    }

    /// Returns the amount with a tax of so many percent on top; `None` where that is no amount.
    pub(crate) fn taxed(self, percent: Percent) -> Option<Rubles> {
        let factor = Decimal::ONE.checked_add(percent.0.checked_div(Decimal::ONE_HUNDRED)?)?;
        self.0.checked_mul(factor).filter(|amount| amount.abs() < Decimal::from(TOO_MUCH)).map(Rubles)
    }
}

/// Two decimals, a point, no sign in front of zero: `8702.30`.
impl fmt::Display for Rubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut amount = self.rounded().0;
        if amount.is_zero() {
            amount.set_sign_positive(true);
        }
        write!(f, "{amount:.2}")
    }
}

/// A tax rate between nothing and a hundred percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Percent(Decimal);

impl Percent {
    pub fn read(value: &Php) -> Option<Percent> {
        match value.text() {
            Ok(None) => Some(Percent(Decimal::ZERO)),
            Ok(Some(text)) => decimal(text)
                .filter(|rate| !rate.is_sign_negative() || rate.is_zero())
                .filter(|rate| *rate <= Decimal::ONE_HUNDRED)
                .map(Percent),
            Err(_) => None,
        }
    }

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

/// Tells whether a number is exactly one, however it is written.
pub(crate) fn is_one(text: &str) -> bool {
    decimal(text) == Some(Decimal::ONE)
}

fn decimal(text: &str) -> Option<Decimal> {
    let text = text.trim().replace(',', ".");
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    // The decimal library alone would also take `1e-+7`.
    if text.len() > MAX_BYTES || !is_number || text.parse::<f64>().is_err() {
        return None;
    }
    if text.contains(['e', 'E']) {
        Decimal::from_scientific(&text).ok()
    } else {
        Decimal::from_str(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Option<String> {
        Rubles::parse(text).ok().map(|amount| amount.to_string())
    }

    #[test]
    fn amounts_have_two_decimals_and_lose_nothing() {
        for (text, expected) in [
            ("8700", "8700.00"),
            ("8700.00", "8700.00"),
            ("8702.2999999999993", "8702.30"),
            ("8702.3000000000002", "8702.30"),
            ("0.005", "0.01"),
            ("0.004999", "0.00"),
            ("1.005", "1.01"),
            ("8.7e3", "8700.00"),
            ("8700,50", "8700.50"),
            ("0", "0.00"),
            ("-0.0", "0.00"),
            ("-0.001", "0.00"),
            ("999999999.99", "999999999.99"),
            (" 8700.00 ", "8700.00"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "",
            " ",
            "NaN",
            "nan",
            "inf",
            "1e21",
            "1e400",
            "-1e21",
            "1e-400",
            "8 700",
            "8700 руб.",
            "0x10",
            "1.2.3",
            "--1",
            "e5",
            "1e-+7",
            "1e",
            ".",
            "1000000000",
            "1_000",
            "٨٧٠٠",
        ] {
            assert_eq!(shown(text), None, "{text:?}");
        }
        assert_eq!(shown(&"9".repeat(5_000)), None);
    }

    #[test]
    fn a_tiny_negative_amount_is_still_negative() {
        assert!(Rubles::parse("-0.001").unwrap().is_negative());
        assert!(!Rubles::parse("-0").unwrap().is_negative());
    }

    proptest! {
        #[test]
        fn whole_kopecks_come_out_as_they_went_in(kopecks in 0_u64..100_000_000_000) {
            let text = format!("{}.{:02}", kopecks / 100, kopecks % 100);
            prop_assert_eq!(shown(&text), Some(text));
        }

        #[test]
        fn the_long_fraction_of_a_float_is_the_kopecks_that_were_meant(kopecks in 0_u32..100_000_000) {
            let meant = format!("{}.{:02}", kopecks / 100, kopecks % 100);
            // PHP with serialize_precision = 17 prints a price that way.
            let printed = format!("{:.13}", f64::from(kopecks) / 100.0);
            prop_assert_eq!(shown(&printed), Some(meant));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = Rubles::parse(&text);
        }

        #[test]
        fn any_number_like_text_is_read_without_a_panic(text in "[-+]?[0-9.]{0,30}([eE][-+]?[0-9]{0,12})?") {
            let _ = Rubles::parse(&text);
        }
    }
}
