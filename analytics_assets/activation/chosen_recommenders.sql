-- One row per list and week held out: how the model that makes the lists of the day did beside popular products.
SELECT list, model, cut_off, customers, lift_over_popular
FROM recommendation_quality
WHERE as_of_date = $as_of AND chosen
