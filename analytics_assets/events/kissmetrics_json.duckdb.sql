-- What `read_kissmetrics.duckdb.sql` makes of the JSON text of one value.

-- A string or a positive integer as a JSON string. NULL for anything else: a line that is not ordinary.
CREATE TEMP MACRO json_scalar(value) AS
    CASE
        WHEN value LIKE '"%' THEN value
        WHEN regexp_full_match(value, '[1-9][0-9]*') THEN '"' || value || '"'
    END;

-- `label` and the value as a JSON string; NULL for null and for an absent key; a line end for what is not ordinary.
-- Numbers but plain integers are taken from the line as they stand there, since parsing has made 1.10 to 1.1. In a flat
-- object a key and its colon (`written`) stand only where the key is.
CREATE TEMP MACRO json_pair(value, label, written, line) AS
    CASE
        WHEN value LIKE '"%' THEN label || value
        WHEN value IS NULL OR value = 'null' THEN NULL
        WHEN regexp_full_match(value, '[1-9][0-9]*') OR value IN ('true', 'false') THEN label || '"' || value || '"'
        WHEN regexp_full_match(value, '[-0-9].*') AND contains(line, written) THEN
            label || '"' || regexp_extract(
                substr(line, strpos(line, written) + length(written)), '^\s*([^\s,}]+)', 1
            ) || '"'
        ELSE chr(10)
    END;
