//! The records that scripts are about.

use serde_json::{Value, json};

/// Code of the status field in the simulated portal.
pub const STATUS: &str = "UF_CRM_SYNC_STATUS";

/// Code of the field with a pupil's surname.
pub const SURNAME: &str = "UF_CRM_57AD7FAF7E6C4";

/// Returns a surname that is another one for each number.
pub fn surname(number: u32) -> String {
    let letters: Vec<char> = "абвгдежзиклмнопрстуф".chars().collect();
    let base = letters.len() as u32;
    let digits =
        [number / (base * base), number / base, number].map(|place| letters[(place % base) as usize]);
    format!("Берёзкин-{}", digits.iter().collect::<String>())
}

/// Returns a contact that maps without a problem.
pub fn contact(surname_number: u32) -> Value {
    json!({
        "NAME": "Елена", "LAST_NAME": "Берёзкина",
        SURNAME: surname(surname_number), "UF_CRM_1608028374": "Артём",
        "PHONE": [{"VALUE": "8 (926) 555-01-02", "VALUE_TYPE": "MOBILE"}],
        "UF_CRM_58D15BB9CA8F4": [410], "UF_CRM_1470852549": [48],
    })
}

/// Returns a deal of a contact that maps without a problem, apart from its product row.
pub fn deal(contact: u64, is_won: bool) -> Value {
    json!({
        "TITLE": "Абонемент", "STAGE_ID": if is_won { "WON" } else { "NEW" }, "CURRENCY_ID": "RUB",
        "OPPORTUNITY": "8700.00", "CONTACT_ID": contact.to_string(), "ASSIGNED_BY_ID": "12288",
        "UF_CRM_58D1057919A6F": "2026-01-13T03:00:00+03:00",
        "UF_CRM_1470852549": [186], "UF_CRM_1490347942": "451",
    })
}

/// Returns the product row of a deal at this price.
pub fn rows(rubles: u32) -> Value {
    let (full, discount) = (9_000, 9_000 - rubles);
    json!([{
        "PRODUCT_NAME": "6 КМС индивидуальные 45 мин", "PRICE": rubles, "PRICE_EXCLUSIVE": rubles,
        "PRICE_NETTO": full, "PRICE_BRUTTO": full, "QUANTITY": 1, "DISCOUNT_SUM": discount,
        "DISCOUNT_TYPE_ID": 1, "TAX_RATE": 0,
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_number_has_a_surname_of_its_own() {
        let names: BTreeSet<String> = (0..8_000).map(surname).collect();
        assert_eq!(names.len(), 8_000);
    }
}
