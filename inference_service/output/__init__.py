"""From engine steps to the events that callers see."""
