//! Compares what the mapping reads with what the portal has. Pure.

use std::collections::BTreeMap;

use bitrix24::Field;
use mapper::{EnumerationUse, FieldUse, Rules};
use schemas::Entity;

use crate::answer::Finding;

/// The fields of an entity, by code.
pub type Fields = BTreeMap<String, Field>;

const FIELD: &str = "mapping.field";
const VALUE: &str = "mapping.value";

/// Looks at every field and list value that the mapping names for an entity.
pub fn look(rules: &Rules, entity: Entity, fields: &Fields) -> Vec<Finding> {
    let uses = rules.fields(entity);
    let lists = rules.enumerations(entity);
    let wrong_fields = uses.iter().filter_map(|used| of_field(entity, used, fields));
    let wrong_values = lists.iter().flat_map(|list| of_list(entity, list, fields));
    let findings: Vec<Finding> = wrong_fields.chain(wrong_values).collect();
    if !findings.is_empty() {
        return findings;
    }
    let values: usize = lists.iter().map(|list| list.values.len()).sum();
    let found = format!("the portal has all {} fields and {values} list values", uses.len());
    vec![Finding::ok(FIELD, format!("Mapping of {entity}s"), found)]
}

fn named(entity: Entity, code: &str, title: &str) -> String {
    format!("Field {code} («{title}») of {entity}s")
}

fn of_field(entity: Entity, used: &FieldUse<'_>, fields: &Fields) -> Option<Finding> {
    let what = named(entity, used.code, used.title);
    let Some(field) = fields.get(used.code) else {
        let remedy = "Put the field's code right in the mapping file, or restore the field in Bitrix24. The code \
                      of a new field is another one";
        return Some(Finding::error(FIELD, what, "the portal has no such field", remedy));
    };
    let wanted = used.kind.bitrix24_types();
    // What Bitrix24's own fields hold is fixed; only what their type is called differs between portals.
    let is_own = !used.code.starts_with("UF_");
    if is_own || wanted.contains(&field.kind.as_str()) {
        return None;
    }
    let found = format!("its type is {}, the mapping reads {}", field.kind, wanted.join(" or "));
    let remedy = "Name the right field in the mapping file";
    Some(Finding::error(FIELD, what, found, remedy))
}

fn of_list(entity: Entity, list: &EnumerationUse<'_>, fields: &Fields) -> Vec<Finding> {
    let Some(field) = fields.get(list.code) else { return Vec::new() };
    let what = named(entity, list.code, list.title);
    if field.options.is_empty() {
        let remedy = "Compare the ids in the mapping file with the list by hand";
        return vec![Finding::warning(VALUE, what, "the portal does not tell its values", remedy)];
    }
    list.values
        .iter()
        .filter(|(id, _)| !field.options.contains(id))
        .map(|(id, title)| {
            let found = format!("the list has no value {id} («{title}»)");
            let remedy = "Put the id right in the mapping file: a value that was made anew has another one";
            Finding::error(VALUE, what.clone(), found, remedy)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;
    use std::collections::BTreeSet;

    fn portal(rules: &Rules, entity: Entity) -> Fields {
        let lists = rules.enumerations(entity);
        let field = |used: &FieldUse<'_>| Field {
            kind: used.kind.bitrix24_types()[0].to_owned(),
            is_multiple: false,
            is_read_only: false,
            label: None,
            options: lists
                .iter()
                .filter(|list| list.code == used.code)
                .flat_map(|list| list.values.iter().map(|(id, _)| *id))
                .collect(),
        };
        rules.fields(entity).iter().map(|used| (used.code.to_owned(), field(used))).collect()
    }

    fn rules() -> Rules {
        Rules::parse(mapper::DEFAULT_MAPPING).unwrap()
    }

    #[test]
    fn a_portal_as_the_mapping_has_it_is_fine() {
        let rules = rules();
        for entity in Entity::ALL {
            let findings = look(&rules, entity, &portal(&rules, entity));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].severity, Severity::Ok);
        }
    }

    #[test]
    fn each_vanished_field_or_value_is_named_with_a_remedy() {
        let rules = rules();
        let mut fields = portal(&rules, Entity::Contact);
        fields.remove("UF_CRM_1608028374");
        fields.get_mut("UF_CRM_1607943642").unwrap().kind = "string".into();
        fields.get_mut("UF_CRM_58D15BB9CA8F4").unwrap().options = BTreeSet::from([404]);
        fields.get_mut("UF_CRM_1470852549").unwrap().options.clear();
        let findings = look(&rules, Entity::Contact, &fields);
        let told: Vec<String> = findings.iter().map(|finding| finding.message.clone()).collect();
        let tells =
            |code: &str, words: &str| told.iter().any(|line| line.contains(code) && line.contains(words));
        assert!(tells("UF_CRM_1608028374", "no such field"), "{told:?}");
        assert!(tells("UF_CRM_1607943642", "type is string"), "{told:?}");
        assert!(tells("UF_CRM_58D15BB9CA8F4", "no value 410"), "{told:?}");
        assert!(tells("UF_CRM_1470852549", "does not tell"), "{told:?}");
        assert_eq!(findings.len(), 4);
        assert!(findings.iter().all(|finding| !finding.action.is_empty()));
    }
}
