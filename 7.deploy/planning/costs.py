"""What a load takes of the load balancer, and what a month of it costs."""

MONTH_HOURS, MONTH_SECONDS = 730, 730 * 3600
# Measured on one request with a key (curl's size_request; size_header + size_download), without TLS.
REQUEST_BYTES, ANSWER_BYTES = 490, 276
# Estimates: how clients hold connections, a line of the balancer's log (gzip), and what registry and images keep.
REQUESTS_PER_CONNECTION, CONNECTION_SECONDS, LOG_BYTES, KEPT_GB = 100, 30, 100, 10
Prices = dict[str, float]


def lcus(per_unit: dict[str, float], new: float, active: float, gb_hour: float, evaluations: float) -> dict[str, float]:
    """Load balancer units by dimension; the largest is paid.

    Args:
        per_unit: what one unit holds, `lcu` of prices.yaml.
        new: connections opened a second.
        active: connections open at a time.
        gb_hour: requests and answers, in GB an hour.
        evaluations: rules evaluated a second beyond the free ones, summed over requests.

    Source: https://aws.amazon.com/elasticloadbalancing/pricing/
    """
    return {
        "new connections": new / per_unit["new_connections_second"],
        "active connections": active / per_unit["active_connections"],
        "bytes": gb_hour / per_unit["gb_hour"],
        "rules": evaluations / per_unit["rule_evaluations_second"],
    }


def lcus_for(load: float, per_unit: dict[str, float], rules: int = 1) -> dict[str, float]:
    """The units of a load in requests a second, with the estimates above; the balancer has one rule."""
    new = load / REQUESTS_PER_CONNECTION
    gb_hour = load * (REQUEST_BYTES + ANSWER_BYTES) * 3600 / 1e9
    return lcus(per_unit, new, new * CONNECTION_SECONDS, gb_hour, load * max(0, rules - per_unit["free_rules"]))


def monthly_cost(load: float, servers: int, units: float, prices: Prices) -> Prices:
    """What a month at a constant load costs, by item.

    Args:
        load: requests a second.
        servers: of the API, all month.
        units: load balancer units, all month.
        prices: by name, as in prices.yaml.
    """
    month = load * MONTH_SECONDS  # requests
    registry = prices["balancer_hour"] + prices["database_hour"]
    registry += prices["fargate_cpu_hour"] + 3 * prices["fargate_gb_hour"]
    server = prices["server_hour"] * MONTH_HOURS + 20 * prices["disk_gb_month"] + prices["monitoring_month"]
    return {
        "servers": servers * server,
        "balancer": (prices["balancer_hour"] + units * prices["lcu_hour"]) * MONTH_HOURS,
        "firewall": prices["firewall_month"]
        + 2 * prices["firewall_rule_month"]
        + month / 1e6 * prices["firewall_million"],
        "answers to the internet": month * ANSWER_BYTES / 1e9 * prices["out_gb"],
        "access logs, once a year of them is kept": 12 * month * LOG_BYTES / 1e9 * prices["s3_gb_month"],
        "registry": registry * MONTH_HOURS + 20 * prices["database_gb_month"] + KEPT_GB * prices["s3_gb_month"],
        # One NAT gateway; its address and the balancer's two; six secrets, a key, three alarms and two for each policy.
        "network and small things": (prices["nat_hour"] + 3 * prices["address_hour"]) * MONTH_HOURS
        + 6 * prices["secret_month"]
        + prices["key_month"]
        + 7 * prices["alarm_month"]
        + prices["zone_month"]
        + KEPT_GB * prices["image_gb_month"],
    }
