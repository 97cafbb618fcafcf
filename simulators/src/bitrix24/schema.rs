//! The fields of contacts and deals: names, types and what may be written.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The two kinds of records with fields of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entity {
    Contact,
    Deal,
}

impl Entity {
    /// Returns the word used in method names and in the admin interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Deal => "deal",
        }
    }

    /// Returns the entity whose methods are called `crm.{name}.*`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "contact" => Some(Self::Contact),
            "deal" => Some(Self::Deal),
            _ => None,
        }
    }

    /// Returns the entity with this `entityTypeId`.
    pub fn by_type_id(id: i64) -> Option<Self> {
        match id {
            2 => Some(Self::Deal),
            3 => Some(Self::Contact),
            _ => None,
        }
    }

    /// Returns the standard fields.
    pub fn standard_fields(self) -> &'static [Field] {
        match self {
            Self::Contact => CONTACT_FIELDS,
            Self::Deal => DEAL_FIELDS,
        }
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Integer,
    User,
    Reference,
    Status,
    Char,
    String,
    Double,
    Date,
    Datetime,
    Multifield,
    Enumeration,
    Boolean,
    File,
}

impl Kind {
    /// Returns the type as `crm.*.fields` names it.
    pub fn wire_name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::User => "user",
            Self::Reference => "crm_entity",
            Self::Status => "crm_status",
            Self::Char => "char",
            Self::String => "string",
            Self::Double => "double",
            Self::Date => "date",
            Self::Datetime => "datetime",
            Self::Multifield => "crm_multifield",
            Self::Enumeration => "enumeration",
            Self::Boolean => "boolean",
            Self::File => "file",
        }
    }

    /// Tells whether values compare as whole numbers.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Integer | Self::User | Self::Reference | Self::Enumeration | Self::Boolean)
    }

    fn by_user_type(user_type: &str) -> Self {
        match user_type {
            "integer" => Self::Integer,
            "double" | "money" => Self::Double,
            "date" => Self::Date,
            "datetime" => Self::Datetime,
            "enumeration" => Self::Enumeration,
            "boolean" => Self::Boolean,
            "employee" => Self::User,
            "file" => Self::File,
            _ => Self::String,
        }
    }
}

/// A standard field.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub access: Access,
}

/// Who may write a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Writable,
    ReadOnly,
    /// Written at creation only.
    Immutable,
    /// Known to `fields`, but no part of list and get rows.
    Hidden,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, access: Access::Writable }
}

const fn read_only(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, access: Access::ReadOnly }
}

const fn with(name: &'static str, kind: Kind, access: Access) -> Field {
    Field { name, kind, access }
}

const CONTACT_FIELDS: &[Field] = &[
    read_only("ID", Kind::Integer),
    field("POST", Kind::String),
    field("COMMENTS", Kind::String),
    field("HONORIFIC", Kind::Status),
    field("NAME", Kind::String),
    field("SECOND_NAME", Kind::String),
    field("LAST_NAME", Kind::String),
    field("PHOTO", Kind::File),
    read_only("LEAD_ID", Kind::Reference),
    field("TYPE_ID", Kind::Status),
    field("SOURCE_ID", Kind::Status),
    field("SOURCE_DESCRIPTION", Kind::String),
    field("COMPANY_ID", Kind::Reference),
    with("COMPANY_IDS", Kind::Reference, Access::Hidden),
    field("BIRTHDATE", Kind::Date),
    field("EXPORT", Kind::Char),
    read_only("HAS_PHONE", Kind::Char),
    read_only("HAS_EMAIL", Kind::Char),
    read_only("HAS_IMOL", Kind::Char),
    read_only("DATE_CREATE", Kind::Datetime),
    read_only("DATE_MODIFY", Kind::Datetime),
    field("ASSIGNED_BY_ID", Kind::User),
    read_only("CREATED_BY_ID", Kind::User),
    read_only("MODIFY_BY_ID", Kind::User),
    field("OPENED", Kind::Char),
    field("ORIGINATOR_ID", Kind::String),
    field("ORIGIN_ID", Kind::String),
    field("ORIGIN_VERSION", Kind::String),
    field("FACE_ID", Kind::Integer),
    read_only("LAST_ACTIVITY_TIME", Kind::Datetime),
    read_only("LAST_ACTIVITY_BY", Kind::User),
    field("ADDRESS", Kind::String),
    field("ADDRESS_2", Kind::String),
    field("ADDRESS_CITY", Kind::String),
    field("ADDRESS_POSTAL_CODE", Kind::String),
    field("ADDRESS_REGION", Kind::String),
    field("ADDRESS_PROVINCE", Kind::String),
    field("ADDRESS_COUNTRY", Kind::String),
    field("UTM_SOURCE", Kind::String),
    field("UTM_MEDIUM", Kind::String),
    field("UTM_CAMPAIGN", Kind::String),
    field("UTM_CONTENT", Kind::String),
    field("UTM_TERM", Kind::String),
    field("PHONE", Kind::Multifield),
    field("EMAIL", Kind::Multifield),
    field("WEB", Kind::Multifield),
    field("IM", Kind::Multifield),
    field("LINK", Kind::Multifield),
];

const DEAL_FIELDS: &[Field] = &[
    read_only("ID", Kind::Integer),
    field("TITLE", Kind::String),
    field("TYPE_ID", Kind::Status),
    with("CATEGORY_ID", Kind::Integer, Access::Immutable),
    field("STAGE_ID", Kind::Status),
    read_only("STAGE_SEMANTIC_ID", Kind::String),
    read_only("IS_NEW", Kind::Char),
    field("IS_RECURRING", Kind::Char),
    field("IS_RETURN_CUSTOMER", Kind::Char),
    field("IS_REPEATED_APPROACH", Kind::Char),
    field("PROBABILITY", Kind::Integer),
    field("CURRENCY_ID", Kind::String),
    field("OPPORTUNITY", Kind::Double),
    field("IS_MANUAL_OPPORTUNITY", Kind::Char),
    field("TAX_VALUE", Kind::Double),
    read_only("LEAD_ID", Kind::Reference),
    field("COMPANY_ID", Kind::Reference),
    field("CONTACT_ID", Kind::Reference),
    with("CONTACT_IDS", Kind::Reference, Access::Hidden),
    read_only("QUOTE_ID", Kind::Reference),
    field("BEGINDATE", Kind::Date),
    field("CLOSEDATE", Kind::Date),
    field("ASSIGNED_BY_ID", Kind::User),
    read_only("CREATED_BY_ID", Kind::User),
    read_only("MODIFY_BY_ID", Kind::User),
    read_only("MOVED_BY_ID", Kind::User),
    read_only("MOVED_TIME", Kind::Datetime),
    read_only("DATE_CREATE", Kind::Datetime),
    read_only("DATE_MODIFY", Kind::Datetime),
    field("OPENED", Kind::Char),
    field("CLOSED", Kind::Char),
    field("COMMENTS", Kind::String),
    field("ADDITIONAL_INFO", Kind::String),
    field("LOCATION_ID", Kind::String),
    field("SOURCE_ID", Kind::Status),
    field("SOURCE_DESCRIPTION", Kind::String),
    field("ORIGINATOR_ID", Kind::String),
    field("ORIGIN_ID", Kind::String),
    read_only("LAST_ACTIVITY_TIME", Kind::Datetime),
    read_only("LAST_ACTIVITY_BY", Kind::User),
    field("UTM_SOURCE", Kind::String),
    field("UTM_MEDIUM", Kind::String),
    field("UTM_CAMPAIGN", Kind::String),
    field("UTM_CONTENT", Kind::String),
    field("UTM_TERM", Kind::String),
];

/// A custom field, as made by `crm.*.userfield.add`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserField {
    pub id: u64,
    pub name: String,
    pub user_type: String,
    pub multiple: bool,
    pub label: String,
    /// Options of an enumeration: id and text.
    #[serde(default)]
    pub options: Vec<(u64, String)>,
    /// Whatever else was given at creation, printed back as it came.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl UserField {
    /// Returns what the field holds.
    pub fn kind(&self) -> Kind {
        Kind::by_user_type(&self.user_type)
    }

    /// Renders the row of `crm.*.userfield.list`.
    pub fn list_row(&self, entity: Entity, with_labels: bool) -> Map<String, Value> {
        let flag = |on: bool| if on { "Y" } else { "N" };
        let mut row = self.extra.clone();
        row.extend(object(json!({
            "ID": self.id.to_string(),
            "ENTITY_ID": format!("CRM_{}", entity.name().to_uppercase()),
            "FIELD_NAME": self.name,
            "USER_TYPE_ID": self.user_type,
            "MULTIPLE": flag(self.multiple),
        })));
        let defaults = json!({"XML_ID": null, "SORT": "100", "MANDATORY": "N", "SHOW_FILTER": "N",
            "SHOW_IN_LIST": "Y", "EDIT_IN_LIST": "Y", "IS_SEARCHABLE": "N", "SETTINGS": {}});
        for (key, value) in object(defaults) {
            row.entry(key).or_insert(value);
        }
        if self.user_type == "enumeration" {
            let options = self.options.iter().enumerate().map(|(index, (id, text))| {
                json!({"ID": id.to_string(), "SORT": ((index + 1) * 10).to_string(), "VALUE": text, "DEF": "N"})
            });
            row.insert("LIST".to_owned(), options.collect());
        }
        if with_labels {
            for key in ["EDIT_FORM_LABEL", "LIST_COLUMN_LABEL", "LIST_FILTER_LABEL"] {
                row.insert(key.to_owned(), Value::String(self.label.clone()));
            }
        }
        row
    }
}

/// A field of either origin, as the methods see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldType {
    pub kind: Kind,
    pub multiple: bool,
    pub access: Access,
    pub custom: bool,
}

/// Finds a field by its upper-case name among the standard and the custom ones.
pub fn find_field(entity: Entity, custom: &[UserField], name: &str) -> Option<FieldType> {
    if let Some(field) = entity.standard_fields().iter().find(|field| field.name == name) {
        let multiple = field.kind == Kind::Multifield || field.access == Access::Hidden;
        return Some(FieldType { kind: field.kind, multiple, access: field.access, custom: false });
    }
    let field = custom.iter().find(|field| field.name == name)?;
    Some(FieldType { kind: field.kind(), multiple: field.multiple, access: Access::Writable, custom: true })
}

/// Renders one entry of `crm.*.fields`.
pub fn describe(name: &str, field: FieldType, custom: Option<&UserField>) -> Value {
    let title = custom.map_or(name, |custom| custom.name.as_str());
    let mut entry = object(json!({
        "type": field.kind.wire_name(),
        "isRequired": false,
        "isReadOnly": field.access == Access::ReadOnly,
        "isImmutable": field.access == Access::Immutable,
        "isMultiple": field.multiple,
        "isDynamic": field.custom,
        "title": title,
    }));
    if let Some(custom) = custom {
        for key in ["listLabel", "formLabel", "filterLabel"] {
            entry.insert(key.to_owned(), Value::String(custom.label.clone()));
        }
        if custom.user_type == "enumeration" {
            let items = custom.options.iter().map(|(id, text)| json!({"ID": id.to_string(), "VALUE": text}));
            entry.insert("items".to_owned(), items.collect());
        }
    }
    Value::Object(entry)
}

/// Converts an upper-case field name to the spelling of the `crm.item.*` methods.
pub fn item_name(name: &str) -> String {
    match name {
        "DATE_CREATE" => "createdTime".to_owned(),
        "DATE_MODIFY" => "updatedTime".to_owned(),
        "CREATED_BY_ID" => "createdBy".to_owned(),
        "MODIFY_BY_ID" => "updatedBy".to_owned(),
        "MOVED_BY_ID" => "movedBy".to_owned(),
        _ => match name.strip_prefix("UF_CRM_") {
            // A code with digits keeps its tail as it is.
            Some(tail) if tail.contains(|c: char| c.is_ascii_digit()) => format!("ufCrm_{tail}"),
            _ => camel_case(name),
        },
    }
}

/// Converts `PRICE_BRUTTO` to `priceBrutto`.
pub fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    for (index, part) in name.split('_').enumerate() {
        let lower = part.to_lowercase();
        let mut letters = lower.chars();
        match letters.next() {
            Some(first) if index > 0 => camel.extend(first.to_uppercase().chain(letters)),
            _ => camel.push_str(&lower),
        }
    }
    camel
}

/// Unwraps the object of a `json!` literal.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// One stage of a deal pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    pub code: &'static str,
    pub name: &'static str,
    /// `S` won, `F` lost, `P` in progress.
    pub semantic: &'static str,
}

const STAGES: &[Stage] = &[
    Stage { code: "NEW", name: "Новая", semantic: "P" },
    Stage { code: "PREPARATION", name: "Подготовка документов", semantic: "P" },
    Stage { code: "PREPAYMENT_INVOICE", name: "Счёт на предоплату", semantic: "P" },
    Stage { code: "EXECUTING", name: "В работе", semantic: "P" },
    Stage { code: "FINAL_INVOICE", name: "Финальный счёт", semantic: "P" },
    Stage { code: "WON", name: "Сделка успешна", semantic: "S" },
    Stage { code: "LOSE", name: "Сделка провалена", semantic: "F" },
    Stage { code: "APOLOGY", name: "Анализ причины провала", semantic: "F" },
];

/// Returns the stages that every pipeline has, codes without the pipeline's prefix.
pub fn stages() -> &'static [Stage] {
    STAGES
}

/// Splits `C10:WON` into pipeline 10 and stage `WON`; the default pipeline is 0.
pub fn split_stage(stage_id: &str) -> (u64, &str) {
    let prefixed = stage_id.strip_prefix('C').and_then(|rest| rest.split_once(':'));
    match prefixed.and_then(|(category, code)| Some((category.parse().ok()?, code))) {
        Some(split) => split,
        None => (0, stage_id),
    }
}

/// Returns a stage by its full code.
pub fn find_stage(stage_id: &str) -> Option<&'static Stage> {
    let (_, code) = split_stage(stage_id);
    STAGES.iter().find(|stage| stage.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_names_follow_the_portals_rules() {
        for (classic, item) in [
            ("ID", "id"),
            ("DATE_MODIFY", "updatedTime"),
            ("STAGE_SEMANTIC_ID", "stageSemanticId"),
            ("UF_CRM_1470852549", "ufCrm_1470852549"),
            ("UF_CRM_57AD7FAF7E6C4", "ufCrm_57AD7FAF7E6C4"),
            ("UF_CRM_SYNC_STATUS", "ufCrmSyncStatus"),
        ] {
            assert_eq!(item_name(classic), item);
        }
    }

    #[test]
    fn stages_know_their_pipeline() {
        assert_eq!(split_stage("C10:WON"), (10, "WON"));
        assert_eq!(split_stage("WON"), (0, "WON"));
        assert_eq!(split_stage("C:WON"), (0, "C:WON"));
        assert_eq!(find_stage("C10:LOSE").map(|stage| stage.semantic), Some("F"));
    }
}
