-- What a shop writes as an amount, as the text of a number; NULL for what cannot be read without guessing.
-- Currency signs and codes, spaces and apostrophes are left out, (20.00) is negative. Of 1,234.50 and 1.234,50 the last sign is
-- the decimal one; 12,50 is twelve and a half, 12,500 is twelve thousand five hundred, and 1.250 one and a quarter.
CREATE OR REPLACE TEMP MACRO bare_amount(text) AS regexp_replace(
    regexp_replace(text, '[€$£¥₹''’\s\x{00A0}\x{202F}]', '', 'g'), '^\((.*)\)$', '-\1'
);

CREATE OR REPLACE TEMP MACRO coded_amount(text) AS regexp_replace(
    regexp_replace(bare_amount(text), '^([-+]?)[A-Za-z]{2,3}\.?', '\1'), '[A-Za-z]{2,3}\.?$', ''
);

CREATE OR REPLACE TEMP MACRO amount_text(text) AS
    CASE
        WHEN regexp_full_match(coded_amount(text), '[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?') THEN coded_amount(text)
        WHEN regexp_full_match(coded_amount(text), '[-+]?\d{1,3}(,\d{3})+(\.\d*)?') THEN replace(coded_amount(text), ',', '')
        WHEN regexp_full_match(coded_amount(text), '[-+]?\d{1,3}(\.\d{3})+(,\d*)?')
            THEN replace(replace(coded_amount(text), '.', ''), ',', '.')
        WHEN regexp_full_match(coded_amount(text), '[-+]?\d+,\d{1,2}') THEN replace(coded_amount(text), ',', '.')
    END;
