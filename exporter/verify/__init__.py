"""Where verdicts get their figures from, and how tools ask for them."""
