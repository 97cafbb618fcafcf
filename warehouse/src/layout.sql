-- The tables of the warehouse, made in the first schema of the search path. Version 1.
CREATE TABLE layout (version integer NOT NULL);
INSERT INTO layout VALUES (1);

CREATE TABLE contacts (
    id bigint PRIMARY KEY,
    last_name text,
    name text,
    second_name text,
    birthdate date,
    phones text[] NOT NULL,
    emails text[] NOT NULL,
    type_id text,
    source_id text,
    source_description text,
    post text,
    comments text,
    company_id bigint,
    lead_id bigint,
    opened boolean,
    assigned_by_id bigint,
    created_by_id bigint,
    modify_by_id bigint,
    date_create timestamptz,
    date_modify timestamptz,
    status_shown text,
    custom jsonb NOT NULL,
    raw jsonb NOT NULL,
    trimmed text[] NOT NULL,
    fingerprint text NOT NULL,
    observed timestamptz NOT NULL,
    raw_sequence bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE contacts IS 'Pupils: the newest version of each contact. Personal data of children';

CREATE TABLE deals (
    id bigint PRIMARY KEY,
    title text,
    type_id text,
    category_id bigint,
    stage_id text,
    stage_semantic_id text,
    contact_id bigint,
    company_id bigint,
    lead_id bigint,
    opportunity numeric,
    currency_id text,
    tax_value numeric,
    probability bigint,
    begindate date,
    closedate date,
    moved_time timestamptz,
    moved_by_id bigint,
    source_id text,
    source_description text,
    comments text,
    additional_info text,
    opened boolean,
    closed boolean,
    is_return_customer boolean,
    assigned_by_id bigint,
    created_by_id bigint,
    modify_by_id bigint,
    date_create timestamptz,
    date_modify timestamptz,
    status_shown text,
    custom jsonb NOT NULL,
    raw jsonb NOT NULL,
    trimmed text[] NOT NULL,
    fingerprint text NOT NULL,
    observed timestamptz NOT NULL,
    raw_sequence bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now()
);
-- No foreign key: a deal may come before its contact.
CREATE INDEX deals_contact_id ON deals (contact_id);
COMMENT ON TABLE deals IS 'Paid tickets: the newest version of each deal';

CREATE TABLE product_rows (
    deal_id bigint NOT NULL REFERENCES deals ON DELETE CASCADE,
    place integer NOT NULL,
    id bigint,
    product_id bigint,
    product_name text,
    price numeric,
    price_exclusive numeric,
    price_netto numeric,
    price_brutto numeric,
    quantity numeric,
    discount_type_id bigint,
    discount_rate numeric,
    discount_sum numeric,
    tax_rate numeric,
    tax_included boolean,
    measure_name text,
    sort bigint,
    raw jsonb NOT NULL,
    PRIMARY KEY (deal_id, place)
);
COMMENT ON TABLE product_rows IS 'What was sold, row by row; always that of the version of the deal beside it';

CREATE TABLE users (
    id bigint PRIMARY KEY,
    name text,
    last_name text,
    second_name text,
    active boolean,
    raw jsonb NOT NULL,
    raw_sequence bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE users IS 'Sellers, as the newest deal of each shows them';

CREATE TABLE stages (
    stage_id text PRIMARY KEY,
    category_id bigint,
    category_name text,
    name text,
    semantics text,
    sort bigint,
    color text
);
COMMENT ON TABLE stages IS 'Stages of deals; names only where the portal may be asked';

CREATE TABLE fields (
    entity text NOT NULL,
    code text NOT NULL,
    label text,
    kind text,
    is_multiple boolean,
    options jsonb NOT NULL DEFAULT '{}',
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (entity, code)
);
COMMENT ON TABLE fields IS 'Fields of contacts and deals with the labels and list values of the portal';

CREATE TABLE outcomes (
    entity text NOT NULL,
    id bigint NOT NULL,
    outcome text NOT NULL,
    status text NOT NULL,
    problems jsonb,
    target_id text,
    modified timestamptz NOT NULL,
    raw_sequence bigint NOT NULL,
    redrive bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entity, id)
);
COMMENT ON TABLE outcomes IS 'What came of the newest processed version of each record at otmechalka';

CREATE TABLE statuses (
    entity text NOT NULL,
    id bigint NOT NULL,
    status text NOT NULL,
    how text NOT NULL,
    settled timestamptz NOT NULL,
    raw_sequence bigint NOT NULL,
    redrive bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entity, id)
);
COMMENT ON TABLE statuses IS 'What the status field of each record holds in Bitrix24';

CREATE TABLE left_out (
    stream text NOT NULL,
    sequence bigint NOT NULL,
    subject text NOT NULL,
    reason text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, sequence)
);
COMMENT ON TABLE left_out IS 'Messages that no row was made of, with the reason';

CREATE TABLE positions (stream text PRIMARY KEY, sequence bigint NOT NULL);
COMMENT ON TABLE positions IS 'Up to where each stream is stored; without a row it is read from its beginning';

CREATE FUNCTION shown(value jsonb, options jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT string_agg(coalesce(options ->> (item #>> '{}'), item #>> '{}'), ', ' ORDER BY place)
    FROM jsonb_array_elements(CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE jsonb_build_array(value) END)
        WITH ORDINALITY AS items (item, place)
    WHERE item NOT IN ('null', 'false', '""', '[]', '{}')
$$;
COMMENT ON FUNCTION shown IS 'A value as a person reads it: list values by their names, nothing as NULL';
