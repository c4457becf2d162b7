"""Determines the labels of the result of a PromQL expression from the labels of its metrics.

A label that does not exist is an error. Prometheus would treat it as empty, and the expression
would be wrong without any sign.
"""

import promql_parser
from promql_parser import AggModifierType, LabelModifierType, VectorMatchCardinality

# Labels that Prometheus adds to every sample, and the label that tells clusters apart if there are
# several.
TARGET = frozenset({"job", "instance", "cluster"})
# Prometheus' series about itself and about scraping.
PROMETHEUS = {
    "up": "",
    "scrape_duration_seconds": "",
    "scrape_samples_scraped": "",
    "ALERTS": "alertname alertstate severity wwid",
}
KEEPING = {"topk", "bottomk", "limitk"}


class Metrics:
    """Known metrics by name, each with its own labels. Prometheus' own metrics are added."""

    def __init__(self, labels):
        self.labels = {name: TARGET | set(own.split()) for name, own in (PROMETHEUS | labels).items()}

    def of(self, promql):
        """Returns the labels of the result of `promql`. Raises ValueError if it cannot be parsed,
        or if it names a metric or label that does not exist."""
        return _Reader(self.labels).read(promql_parser.parse(promql))


class _Reader:
    def __init__(self, metrics):
        self.metrics = metrics

    def read(self, node):
        return getattr(self, type(node).__name__)(node)

    def demand(self, labels, have, place):
        missing = set(labels) - set(have)
        if missing:
            raise ValueError(f"no label {', '.join(sorted(missing))} in {place}")

    def VectorSelector(self, node):
        if node.name not in self.metrics:
            raise ValueError(f"no metric {node.name or node.prettify()}")
        labels = self.metrics[node.name]
        self.demand([matcher.name for matcher in node.matchers.matchers], labels, node.prettify())
        return labels

    def MatrixSelector(self, node):
        return self.read(node.vector_selector)

    def SubqueryExpr(self, node):
        return self.read(node.expr)

    ParenExpr = UnaryExpr = SubqueryExpr

    def NumberLiteral(self, _node):
        return frozenset()

    StringLiteral = NumberLiteral

    def Call(self, node):
        inner = [self.read(argument) for argument in node.args]
        if node.func.name == "label_replace":
            target, source = node.args[1].val, node.args[3].val
            self.demand([source] if source else [], inner[0], node.prettify())
            return inner[0] | {target}
        labels = frozenset().union(*inner)
        if node.func.name == "histogram_quantile":
            self.demand(["le"], labels, node.prettify())
            return labels - {"le"}
        return labels

    def AggregateExpr(self, node):
        inner = self.read(node.expr)
        if node.modifier is None:
            return inner if str(node.op) in KEEPING else frozenset()
        named = set(node.modifier.labels)
        self.demand(named, inner, node.prettify())
        if str(node.op) in KEEPING:
            return inner
        return frozenset(named if node.modifier.type == AggModifierType.By else inner - named)

    def BinaryExpr(self, node):
        left, right = self.read(node.lhs), self.read(node.rhs)
        matching = node.modifier and node.modifier.matching
        named = set(matching.labels) if matching else set()
        on = bool(matching) and matching.type == LabelModifierType.Include
        if on:
            self.demand(named, left, f"the left of {node.prettify()}")
            self.demand(named, right, f"the right of {node.prettify()}")
        else:
            self.demand(named, left | right, node.prettify())
        if str(node.op) == "or":
            return left | right
        if str(node.op) in ("and", "unless") or not right:
            return left
        if not left:
            return right
        if node.modifier and node.modifier.card in (VectorMatchCardinality.ManyToOne, VectorMatchCardinality.OneToMany):
            to_one = node.modifier.card == VectorMatchCardinality.ManyToOne
            many, one = (left, right) if to_one else (right, left)
            brought = set(node.modifier.group_labels or [])
            self.demand(brought, one, f"the one side of {node.prettify()}")
            return many | brought
        if not matching:
            return left
        return frozenset(named) if on else left - named
