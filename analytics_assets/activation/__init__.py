"""What goes out: lists for the e-mail campaign, recommendations for the site, and the gate before both."""
