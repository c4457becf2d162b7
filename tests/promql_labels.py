"""Which labels the result of a PromQL expression has, from the labels of the metrics in it.

Whoever names a label that is not there gets an error: Prometheus would take it for empty, and the expression would be
quietly wrong.
"""

import promql_parser
from promql_parser import AggModifierType, LabelModifierType, VectorMatchCardinality

# What Prometheus adds to every sample.
TARGET = frozenset({"job", "instance"})
# What it tells of itself and of scraping.
PROMETHEUS = {
    "up": "",
    "scrape_duration_seconds": "",
    "scrape_samples_scraped": "",
    "ALERTS": "alertname alertstate severity wwid",
}
KEEPING = {"topk", "bottomk", "limitk"}


class Metrics:
    """Known metrics by name, each with its own labels; Prometheus' are added. None: not yet found out."""

    def __init__(self, labels):
        self.labels = {name: TARGET | set(own.split()) for name, own in (PROMETHEUS | labels).items()}

    def record(self, rules):
        """Adds the series that recording rules make. They may rest on each other and on their own past, and several may
        make series of one name."""
        for rule in rules:
            self.labels[rule["record"]] = None
        # Each round knows what the rounds before found out; as many rounds as rules are enough for any order of them.
        for _ in rules:
            for rule in rules:
                found = self.of(rule["expr"], strict=False)
                if found is not None:
                    known = self.labels[rule["record"]] or frozenset()
                    self.labels[rule["record"]] = known | found | rule.get("labels", {}).keys()

    def of(self, promql, strict=True):
        """The labels of what `promql` gives. ValueError if it cannot be parsed, or names what does not exist."""
        return _Reader(self.labels, strict).read(promql_parser.parse(promql))


class _Reader:
    def __init__(self, metrics, strict):
        self.metrics = metrics
        self.strict = strict

    def read(self, node):
        return getattr(self, type(node).__name__)(node)

    def demand(self, labels, have, place):
        if not self.strict:
            return
        missing = set(labels) - set(have)
        if missing:
            raise ValueError(f"no label {', '.join(sorted(missing))} in {place}")

    def VectorSelector(self, node):
        if node.name not in self.metrics:
            raise ValueError(f"no metric {node.name or node.prettify()}")
        labels = self.metrics[node.name]
        if labels is None:
            return None
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
        if None in inner:
            return None
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
        if inner is None:
            return None
        if node.modifier is None:
            return inner if str(node.op) in KEEPING else frozenset()
        named = set(node.modifier.labels)
        self.demand(named, inner, node.prettify())
        if str(node.op) in KEEPING:
            return inner
        return frozenset(named if node.modifier.type == AggModifierType.By else inner - named)

    def BinaryExpr(self, node):
        left, right = self.read(node.lhs), self.read(node.rhs)
        if left is None or right is None:
            return right if left is None else left
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
