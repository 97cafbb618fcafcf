//! Prices and discount of a product row.
//!
//! All amounts of a row are per unit. `PRICE_BRUTTO` is before the discount and with tax, `PRICE` after the
//! discount and with tax. `PRICE_EXCLUSIVE` and `DISCOUNT_SUM` are without tax, so the discount that a ticket
//! needs is the difference of the first two, and `DISCOUNT_SUM` can only check it where there is no tax.
//! See <https://apidocs.bitrix24.com/api-reference/crm/deals/crm-deal-productrows-get.html>.

use schemas::Problem;
use schemas::problem::{Field, Figures};

use crate::money::{Percent, Rubles};
use crate::php::Php;
use crate::rules::RowTitles;

/// What a ticket costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    pub initial: Rubles,
    pub discount: Rubles,
    pub paid: Rubles,
}

/// Reads the prices of a product row, or tells what is wrong with each amount.
pub(crate) fn read(titles: &RowTitles, row: &Php) -> Result<Price, Vec<Problem>> {
    let row = Row::new(titles, row);
    let initial = row.amount(row.initial_field(), "PRICE_BRUTTO");
    let stated = row.stated_discount();
    let paid = row.amount(row.paid_field(), "PRICE");
    let tax = row.tax();
    match (initial, stated, paid, tax) {
        (Ok(initial), Ok(stated), Ok(paid), Ok(tax)) => row.price(initial, stated, paid, tax),
        (initial, stated, paid, tax) => {
            Err([initial.err(), stated.err(), paid.err(), tax.err()].into_iter().flatten().collect())
        }
    }
}

struct Row<'r> {
    titles: &'r RowTitles,
    row: &'r Php,
    /// The three figures as sent, for problems.
    shown: [String; 3],
}

impl<'r> Row<'r> {
    fn new(titles: &'r RowTitles, row: &'r Php) -> Row<'r> {
        Row {
            titles,
            row,
            shown: ["PRICE_BRUTTO", "PRICE", "DISCOUNT_SUM"].map(|key| shown(row.member(key))),
        }
    }

    fn figures(&self) -> Figures<'_> {
        let [initial, paid, discount] = &self.shown;
        Figures { initial, paid, discount }
    }

    fn initial_field(&self) -> Field<'r> {
        Field { token: "price_initial", title: &self.titles.price_initial }
    }

    fn paid_field(&self) -> Field<'r> {
        Field { token: "price_final", title: &self.titles.price_final }
    }

    fn discount_field(&self) -> Field<'r> {
        Field { token: "discount", title: &self.titles.discount }
    }

    fn amount(&self, field: Field<'_>, key: &str) -> Result<Rubles, Problem> {
        self.optional_amount(field, key)?.ok_or_else(|| Problem::amount_missing(field, self.figures()))
    }

    /// Reads the discount as the row states it; none stated is none given.
    fn stated_discount(&self) -> Result<Option<Rubles>, Problem> {
        self.optional_amount(self.discount_field(), "DISCOUNT_SUM")
    }

    fn optional_amount(&self, field: Field<'_>, key: &str) -> Result<Option<Rubles>, Problem> {
        let value = self.row.member(key);
        let invalid = || Problem::amount_invalid(field, &shown(value), self.figures());
        let Some(text) = value.text().map_err(|_| invalid())? else { return Ok(None) };
        let amount = Rubles::parse(text).map_err(|_| invalid())?;
        if amount.is_negative() {
            return Err(Problem::amount_negative(field, text, self.figures()));
        }
        Ok(Some(amount))
    }

    fn tax(&self) -> Result<Percent, Problem> {
        let field = Field { token: "tax_rate", title: &self.titles.tax_rate };
        let value = self.row.member("TAX_RATE");
        Percent::read(value).ok_or_else(|| Problem::rate_invalid(field, &shown(value)))
    }

    fn price(
        &self,
        brutto: Rubles,
        stated: Option<Rubles>,
        paid: Rubles,
        tax: Percent,
    ) -> Result<Price, Vec<Problem>> {
        let initial = if brutto.is_zero() && !paid.is_zero() {
            self.derived_initial(stated, tax).unwrap_or(brutto)
        } else {
            brutto
        };
        let price = Price {
            initial: initial.rounded(),
            paid: paid.rounded(),
            discount: initial.rounded().minus(paid.rounded()),
        };
        if price.discount.is_negative() {
            return Err(vec![Problem::discount_negative(self.discount_field(), self.figures())]);
        }
        if tax.is_zero() && !agrees(stated, price.discount, initial.minus(paid)) {
            return Err(vec![Problem::discount_mismatch(self.discount_field(), self.figures())]);
        }
        Ok(price)
    }

    /// Returns the price before the discount of a row that says 0 there though money was paid.
    ///
    /// Rows from before Bitrix24 kept that figure look so. The others still hold it:
    /// `PRICE_EXCLUSIVE` and `DISCOUNT_SUM` together, plus tax.
    fn derived_initial(&self, stated: Option<Rubles>, tax: Percent) -> Option<Rubles> {
        let exclusive = Rubles::parse(self.row.member("PRICE_EXCLUSIVE").text().ok()??).ok()?;
        if exclusive.is_negative() {
            return None;
        }
        stated.map_or(exclusive, |discount| exclusive.plus(discount)).taxed(tax)
    }
}

/// Tells whether a stated discount is the difference of the prices to the kopeck, rounded before or after.
fn agrees(stated: Option<Rubles>, rounded: Rubles, exact: Rubles) -> bool {
    match stated {
        None => rounded.is_zero(),
        Some(stated) => stated.rounded() == rounded || stated.rounded() == exact.rounded(),
    }
}

/// Returns an amount with two decimals, or what stands in its place.
fn shown(value: &Php) -> String {
    match value {
        Php::Absent => "не указано".to_owned(),
        value => match value.text().ok().flatten().map(Rubles::parse) {
            Some(Ok(amount)) => amount.to_string(),
            _ => value.shown(),
        },
    }
}
