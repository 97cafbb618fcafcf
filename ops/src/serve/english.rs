//! What the codes of problems mean, in English; the Russian words are those of `schemas`' catalogue.

/// Says what a code means; `None` for one that this program does not know.
pub fn meaning(code: &str) -> Option<String> {
    let whole = match code {
        "branch.missing" => "no branch is chosen",
        "branch.several" => "more than one branch is chosen",
        "contact.missing" => "the deal has no contact",
        "contact.invalid" => "the deal's contact is not one",
        "products.count" => "there is not exactly one product in the deal",
        "quantity.not_one" => "the quantity is not 1",
        "currency.unsupported" => "the deal is in another currency",
        "discount.negative" => "the price paid is higher than the price before the discount",
        "discount.mismatch" => "the discount is not the difference of the prices",
        "seller.unknown" => "Bitrix24 has no such employee",
        "seller.nameless" => "the employee has no name",
        "record.unreadable" => "the record came in a form that cannot be read",
        "otmechalka.refused" => "otmechalka did not take the record",
        "otmechalka.keeps_failing" => "otmechalka keeps failing on this record alone",
        "client.limit" => "otmechalka has no room for another client",
        "client.missing" => "the pupil's contact has to be corrected first",
        "client.out_of_scope" => "the pupil's contact does not concern otmechalka",
        "client.not_read" => "the pupil's contact is none of those that are read",
        "client.lost" => "the pupil was deleted from otmechalka",
        _ => return of_field(code),
    };
    Some(whole.to_owned())
}

fn of_field(code: &str) -> Option<String> {
    let (field, kind) = code.split_once('.')?;
    let field = match field {
        "pupil_last_name" => "the pupil's surname",
        "pupil_first_name" => "the pupil's first name",
        "parent_last_name" => "the parent's surname",
        "parent_first_name" => "the parent's first name",
        "phone" => "the phone number",
        "email" => "the e-mail address",
        "birth_date" => "the date of birth",
        "product" => "the product",
        "contact" => "the deal's contact",
        "currency" => "the currency",
        "selling_date" => "the date of the sale",
        "seller" => "the seller",
        "payment_method" => "the way of payment",
        "product_name" => "the product's name",
        "quantity" => "the quantity",
        "price_initial" => "the price before the discount",
        "price_final" => "the price paid",
        "discount" => "the discount",
        "tax_rate" => "the tax rate",
        _ => return None,
    };
    let kind = match kind {
        "missing" => "is missing",
        "in_other_field" => "stands in the field of the other name",
        "too_long" => "is too long",
        "unreadable" => "came in a form that cannot be read",
        "invalid" => "is something else",
        "negative" => "is below zero",
        _ => return None,
    };
    Some(format!("{field} {kind}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use schemas::problem::catalogue;

    #[test]
    fn every_code_has_words_of_its_own() {
        let mut by_words: BTreeMap<String, String> = BTreeMap::new();
        for example in catalogue() {
            let code = example.problem.code;
            let words = meaning(&code).unwrap_or_else(|| panic!("no English words for {code}"));
            let other = by_words.insert(words.clone(), code.clone());
            assert!(other.as_ref().is_none_or(|other| *other == code), "{words}: {code} and {other:?}");
        }
        assert_eq!(meaning("phone.haunted"), None);
        assert_eq!(meaning("phone"), None);
    }
}
