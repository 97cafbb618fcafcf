//! Product rows and the contacts of a deal.

use serde_json::{Map, Value, json};

use super::super::filter::{PAGE_SIZE, split_key};
use super::super::php::Node;
use super::super::record::scalar_text;
use super::super::schema::{Entity, object};
use super::super::settings::OwnerArrays;
use super::super::state::{Edit, Row, Stamp, Write};
use super::super::values::{contact_ids, item_product_row, swap_types};
use super::classic::counting_seconds;
use super::{ApiError, Call, Outcome, Reply, optional_array, paging, read_start, required_id};

/// Returns all rows of a deal, without paging.
pub fn get(call: &mut Call<'_>, params: &Node) -> Outcome {
    let id = deal_id(params)?;
    if call.state.deals.get(id).is_none() {
        return Err(ApiError::classic("Not found"));
    }
    let swapped = call.state.settings.shape.swap_numbers_and_strings;
    let rows = call.state.product_rows.get(&id).map_or(&[][..], Vec::as_slice);
    let rows = rows.iter().map(|row| Value::Object(if swapped { swap_types(row) } else { row.clone() }));
    Ok(Reply::of(rows.collect::<Vec<Value>>()))
}

/// Replaces all rows of a deal and recalculates its amount.
pub fn set(call: &mut Call<'_>, params: &Node) -> Outcome {
    let id = deal_id(params)?;
    let Some(sent) = optional_array(params, "rows")?.cloned() else {
        return Err(ApiError::classic("Parameter 'rows' must be array."));
    };
    let deal = call.state.deals.get(id).cloned().ok_or_else(|| ApiError::classic("Not found"))?;
    let rows: Vec<Row> = sent.as_array().into_iter().flatten().map(|(_, row)| priced(row)).collect();
    call.state.set_product_rows(id, rows.clone());
    let changed = if call.state.settings.rows_bump {
        let edit =
            Edit { user: call.author.user(), now: call.now, stamp: Stamp::default(), unchanged_bumps: true };
        call.state.edit(Entity::Deal, &deal, amount(&rows), &edit)
    } else {
        Row::new()
    };
    let write = Write { fields: sent.to_json(), applied: true, changed, ..Write::default() };
    call.state.remember(&call.author, call.method, Entity::Deal, id, call.now, write);
    Ok(Reply::of(true))
}

/// Lists rows of one or, where the portal allows it, of many owners.
pub fn list(call: &mut Call<'_>, params: &Node) -> Outcome {
    let filter = optional_array(params, "filter")?;
    let owners = owners(call, filter)?;
    let mut rows: Vec<Row> = owners
        .iter()
        .filter_map(|owner| call.state.product_rows.get(owner))
        .flatten()
        .map(item_product_row)
        .collect();
    for (key, value) in filter.and_then(Node::as_array).into_iter().flatten() {
        keep_matching(&mut rows, key, value)?;
    }
    let descending = optional_array(params, "order")?
        .and_then(|order| order.as_array()?.first().and_then(|(_, direction)| direction.text()))
        .is_some_and(|direction| direction.eq_ignore_ascii_case("desc"));
    rows.sort_by_key(row_id);
    if descending {
        rows.reverse();
    }
    let start = read_start(params);
    let counted = start.map(|_| rows.len());
    let select = optional_array(params, "select")?.map(Node::texts).unwrap_or_default();
    let shown = rows.into_iter().skip(start.unwrap_or(0)).take(PAGE_SIZE).map(|row| selected(row, &select));
    let shown: Vec<Value> = shown.map(Value::Object).collect();
    let (next, total) = paging(start, shown.len(), counted);
    let extra_seconds = counting_seconds(call, counted);
    Ok(Reply { result: json!({"productRows": shown}), next, total, extra_seconds })
}

/// Returns the contacts of a deal, the primary one first.
pub fn contacts(call: &mut Call<'_>, params: &Node) -> Outcome {
    let id = required_id(params)?;
    let deal = call.state.deals.get(id).ok_or_else(|| ApiError::classic("Not found"))?;
    let items = contact_ids(deal).into_iter().enumerate().map(|(index, contact)| {
        let primary = if index == 0 { "Y" } else { "N" };
        json!({"CONTACT_ID": contact, "SORT": (index + 1) * 10, "ROLE_ID": 0, "IS_PRIMARY": primary})
    });
    Ok(Reply::of(items.collect::<Vec<Value>>()))
}

fn deal_id(params: &Node) -> Result<u64, ApiError> {
    required_id(params).map_err(|_| ApiError::classic("The parameter id is invalid or not defined."))
}

fn invalid(description: &str) -> ApiError {
    ApiError::new(400, "INVALID_ARG_VALUE", description)
}

fn owners(call: &Call<'_>, filter: Option<&Node>) -> Result<Vec<u64>, ApiError> {
    let part = |name: &str| filter.and_then(|filter| filter.get(name));
    let (Some(owner_type), Some(owner_id)) = (part("=ownerType"), part("=ownerId")) else {
        return Err(invalid("Required filter fields: =ownerType, =ownerId"));
    };
    if owner_type.text().as_deref() != Some("D") {
        return Ok(Vec::new());
    }
    let many = matches!(owner_id, Node::Array(_));
    match call.state.settings.item_owner_arrays {
        OwnerArrays::Refused if many => Err(invalid("Invalid filter: value of '=ownerId' must be a number")),
        OwnerArrays::MatchNothing if many => Ok(Vec::new()),
        _ => {
            let mut owners: Vec<u64> =
                owner_id.texts().iter().filter_map(|id| id.trim().parse().ok()).collect();
            owners.sort_unstable();
            owners.dedup();
            Ok(owners)
        }
    }
}

/// Applies a condition besides the two on the owner.
fn keep_matching(rows: &mut Vec<Row>, key: &str, value: &Node) -> Result<(), ApiError> {
    let (prefix, name) = split_key(key);
    if matches!(name, "ownerType" | "ownerId") {
        return Ok(());
    }
    if rows.first().is_some_and(|row| !row.contains_key(name)) {
        return Err(invalid(&format!("Invalid filter: field '{name}' is not allowed in filter")));
    }
    let wanted = value.texts();
    let bound = wanted.first().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    rows.retain(|row| {
        let stored = row.get(name).and_then(scalar_text).unwrap_or_default();
        let number = stored.parse::<f64>().unwrap_or(0.0);
        match prefix {
            ">" => number > bound,
            ">=" => number >= bound,
            "<" => number < bound,
            "<=" => number <= bound,
            "!" | "!=" | "!@" => !wanted.contains(&stored),
            _ => wanted.contains(&stored),
        }
    });
    Ok(())
}

fn row_id(row: &Row) -> u64 {
    row.get("id").and_then(Value::as_u64).unwrap_or(0)
}

fn selected(mut row: Row, select: &[String]) -> Row {
    if !select.is_empty() && !select.iter().any(|name| name == "*") {
        row.retain(|name, _| name == "id" || select.contains(name));
    }
    row
}

/// Completes a sent row with the prices that the portal derives.
fn priced(sent: &Node) -> Row {
    let number = |name: &str| sent.get(name).and_then(Node::text).and_then(|text| text.parse::<f64>().ok());
    let cents = |amount: f64| (amount * 100.0).round() / 100.0;
    let (price, quantity) = (number("PRICE").unwrap_or(0.0), number("QUANTITY").unwrap_or(1.0));
    let tax = 1.0 + number("TAX_RATE").unwrap_or(0.0) / 100.0;
    let exclusive = price / tax;
    let by_sum = number("DISCOUNT_TYPE_ID") == Some(1.0);
    let rate = number("DISCOUNT_RATE").unwrap_or(0.0);
    let discount = match number("DISCOUNT_SUM") {
        Some(sum) if by_sum => sum,
        _ if rate > 0.0 && rate < 100.0 => exclusive * rate / (100.0 - rate),
        _ => 0.0,
    };
    let netto = exclusive + discount;
    let rate = if netto > 0.0 { discount / netto * 100.0 } else { 0.0 };
    let text = |name: &str| sent.get(name).and_then(Node::text).unwrap_or_default();
    let derived = json!({
        "PRODUCT_ID": number("PRODUCT_ID").map_or(0, |id| id as u64),
        "PRODUCT_NAME": text("PRODUCT_NAME"), "ORIGINAL_PRODUCT_NAME": text("PRODUCT_NAME"),
        "PRODUCT_DESCRIPTION": null, "PRICE": price, "PRICE_EXCLUSIVE": cents(exclusive),
        "PRICE_NETTO": cents(netto), "PRICE_BRUTTO": cents(netto * tax), "PRICE_ACCOUNT": format!("{price:.2}"),
        "QUANTITY": quantity, "DISCOUNT_TYPE_ID": if by_sum { 1 } else { 2 }, "DISCOUNT_RATE": cents(rate),
        "DISCOUNT_SUM": cents(discount), "TAX_RATE": number("TAX_RATE"),
        "TAX_INCLUDED": if text("TAX_INCLUDED") == "Y" { "Y" } else { "N" }, "CUSTOMIZED": "Y",
        "MEASURE_CODE": 796, "MEASURE_NAME": "шт", "SORT": 10,
    });
    object(derived)
}

fn amount(rows: &[Row]) -> Map<String, Value> {
    let number = |row: &Row, name: &str| row.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let total: f64 = rows.iter().map(|row| number(row, "PRICE") * number(row, "QUANTITY")).sum();
    Map::from_iter([("OPPORTUNITY".to_owned(), Value::from(format!("{total:.2}")))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(sent: Value) -> Row {
        priced(&serde_json::from_value(sent).expect("a node"))
    }

    #[test]
    fn derived_prices_agree_with_the_documented_example() {
        let row = price(json!({"PRICE": 90000, "TAX_RATE": 10, "DISCOUNT_RATE": 10}));
        assert_eq!(row["PRICE_EXCLUSIVE"], 81818.18);
        assert_eq!(row["PRICE_NETTO"], 90909.09);
        assert_eq!(row["PRICE_BRUTTO"], 100000.0);
        assert_eq!(row["DISCOUNT_SUM"], 9090.91);
    }
}
