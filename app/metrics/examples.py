"""One request for each kind of metric, for the API's documentation."""

from typing import Any

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"key": "bought-in-a-week", "kind": "conversion", "event_type": "purchase", "window": "7d", "covariate_days": 14},
    {"key": "searches", "kind": "count", "event_type": "search", "winsorize": 0.99, "covariate_days": 14},
    {
        "key": "revenue",
        "name": "Revenue without gift cards",
        "kind": "sum",
        "event_type": "purchase",
        "filters": [{"property": "category", "operator": "ne", "value": "gift-card"}],
        "window": {"seconds": "30d"},
        "cap": 1000,
        "covariate_days": 28,
        "unit": "EUR",
    },
    {"key": "order-value", "kind": "mean", "event_type": "purchase", "value": "value", "unit": "EUR"},
    {
        "key": "clicks-per-view",
        "kind": "ratio",
        "event_type": "click",
        "value": "one",
        "denominator": {"event_type": "view", "value": "one"},
    },
    {
        "key": "latency-p95",
        "kind": "quantile",
        "event_type": "page_load",
        "value": {"property": "milliseconds"},
        "quantile": 0.95,
        "direction": "down",
        "unit": "ms",
    },
    {
        "key": "back-in-week-two",
        "kind": "retention",
        "event_types": ["login", "view"],
        "days": {"first": 7, "last": 13},
    },
    {
        "key": "checkout",
        "kind": "funnel",
        "steps": [
            {"event_type": "cart"},
            {"event_type": "payment", "filters": [{"property": "method", "operator": "in", "value": ["card", "sepa"]}]},
            {"event_type": "purchase"},
        ],
        "window": "1d",
    },
    {"key": "time-to-purchase", "kind": "time_to_first", "event_type": "purchase", "window": "30d", "unit": "s"},
)
