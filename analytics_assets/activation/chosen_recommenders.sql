-- One row per list and week held out: what the model that makes the lists of the day found, and what popular products did.
SELECT c.list, c.model, c.cut_off, c.customers, c.recall_at_20 AS recall, p.recall_at_20 AS recall_of_popular
FROM recommendation_quality AS c
INNER JOIN recommendation_quality AS p
    ON c.as_of_date = p.as_of_date AND c.list = p.list AND c.cut_off = p.cut_off AND p.model = 'popular'
WHERE c.as_of_date = $as_of AND c.chosen
