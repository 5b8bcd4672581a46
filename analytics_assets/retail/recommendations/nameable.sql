-- One row per day and product that reasons may name, with the words that name it: neither it nor its category is excluded.
-- What is excluded is given as it is written on the order lines.
SELECT as_of_date, product_id, reason
FROM spoken
WHERE
    NOT LIST_CONTAINS(CAST($excluded_products AS VARCHAR[]), product_id)
    AND COALESCE(NOT LIST_CONTAINS(CAST($excluded_categories AS VARCHAR[]), category), TRUE)
