"""Truth tables, by hand from the specification: what each feature of each kind means for traffic of the small cluster (world.py)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sidelight.analysis.policy.evaluate import Evaluator
from tests.unit.analysis.policy.world import cluster, policies, traffic

CLUSTER = cluster()


@dataclass(frozen=True)
class Table:
    """`lines`: traffic and its verdict: + allowed, - denied, ? undefined."""

    name: str
    policies: str
    lines: str


def v1(namespace: str, spec: str, name: str = "p") -> str:
    return f"---\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"


def anp(priority: int, spec: str, name: str = "a") -> str:
    return f"---\nkind: AdminNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{priority: {priority}, {spec}}}\n"


def banp(spec: str) -> str:
    return f"---\nkind: BaselineAdminNetworkPolicy\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"


def cnp(tier: str, priority: int, spec: str, name: str = "c") -> str:
    return f"---\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{tier: {tier}, priority: {priority}, {spec}}}\n"


IN_X = "subject: {namespaces: {matchLabels: {team: red}}}"
ALL = "subject: {namespaces: {}}"

TABLES = [
    Table("no policy", "", """
        + x/a -> y/b :80 TCP
        + x/a -> world :443 TCP
        + world -> x/a :80 TCP
        + x/h -> x/a :80 TCP
        + x/a -> x/a :80 TCP
        + node:n1 -> y/b :80 TCP
        + x/a -> y/b :53 UDP
        + x/a -> y/b :80 SCTP
        + x/a -> y/b :80 TCP6
        + node:n1 -> world :80 TCP
    """),
    Table("deny all ingress", v1("x", "podSelector: {}, policyTypes: [Ingress]"), """
        - y/b -> x/a :80 TCP
        - x/b -> x/a :80 TCP
        + x/a -> y/b :80 TCP
        + x/a -> x/a :80 TCP
        - world -> x/a :80 TCP
        - node:n2 -> x/a :80 TCP
        + node:n1 -> x/a :80 TCP
        - node:n1 -> x/b :80 TCP
        + y/a -> y/b :80 TCP
        - y/b -> x/a :53 UDP
        - y/b -> x/a :80 TCP6
        ? x/b -> x/h :80 TCP
    """),
    Table("deny all egress", v1("x", "podSelector: {}, policyTypes: [Egress]"), """
        - x/a -> y/b :80 TCP
        - x/a -> world :80 TCP
        - x/a -> x/b :80 TCP
        + x/a -> x/a :80 TCP
        + y/b -> x/a :80 TCP
        + x/a -> node:n1 :10250 TCP
        - x/b -> node:n1 :10250 TCP
        + x/b -> node:n2 :10250 TCP
        - x/a -> y/b :53 UDP
    """),
    Table("types by default: Ingress alone without egress rules", v1("x", "podSelector: {}, ingress: [{}]"), """
        + y/b -> x/a :80 TCP
        + x/a -> y/b :80 TCP
        + world -> x/a :1 UDP
    """),
    Table("types by default: both with egress rules", v1("x", "podSelector: {matchLabels: {pod: a}}, egress: [{to: [{podSelector: {}}]}]"), """
        + x/a -> x/b :80 TCP
        - x/a -> y/b :80 TCP
        - x/b -> x/a :80 TCP
        + x/b -> y/a :80 TCP
    """),
    Table("types by default: an empty egress list is none", v1("x", "podSelector: {}, egress: []"), """
        + x/a -> y/b :80 TCP
        - y/b -> x/a :80 TCP
    """),
    Table("egress rules without their type mean nothing", v1("x", "podSelector: {}, policyTypes: [Ingress], egress: [{to: []}], ingress: [{}]"), """
        + x/a -> y/b :80 TCP
        + y/b -> x/a :80 TCP
    """),
    Table("an empty rule allows everything, an empty from too", v1("x", "podSelector: {}, ingress: [{from: []}], policyTypes: [Ingress]"), """
        + y/b -> x/a :80 TCP
        + world -> x/a :80 TCP
        + x/h -> x/b :80 TCP
    """),
    Table("pods of the same namespace", v1("x", "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]"), """
        + x/b -> x/a :80 TCP
        - x/c -> x/a :80 TCP
        - y/b -> x/a :80 TCP
        + x/c -> x/b :80 TCP
        - world -> x/a :80 TCP
    """),
    Table("an empty podSelector is all of the namespace, no more", v1("x", "podSelector: {}, ingress: [{from: [{podSelector: {}}]}]"), """
        + x/b -> x/a :80 TCP
        - y/b -> x/a :80 TCP
        ? x/h -> x/b :80 TCP
        + x/h -> x/a :80 TCP
    """),
    Table("namespaces by label: all of their pods", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]"), """
        + y/a -> x/a :80 TCP
        + y/c -> x/b :80 TCP
        - z/a -> x/a :80 TCP
        - x/b -> x/a :80 TCP
    """),
    Table("an empty namespaceSelector is every namespace", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]"), """
        + y/a -> x/b :80 TCP
        + z/b -> x/a :80 TCP
        + x/b -> x/a :80 TCP
        - world -> x/a :80 TCP
        - node:n2 -> x/a :80 TCP
    """),
    Table("both selectors in one peer: AND", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {pod: b}}}]}]"), """
        + y/b -> x/a :80 TCP
        - y/a -> x/a :80 TCP
        - z/b -> x/a :80 TCP
        - x/b -> x/a :80 TCP
    """),
    Table("two peers: OR", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}, {podSelector: {matchLabels: {pod: b}}}]}]"), """
        + y/b -> x/a :80 TCP
        + y/a -> x/a :80 TCP
        + x/b -> x/a :80 TCP
        - z/b -> x/a :80 TCP
    """),
    Table("a namespace by its name", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]"), """
        + z/a -> x/a :80 TCP
        - y/a -> x/a :80 TCP
    """),
    Table("In", v1("x", "podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}}]}]"), """
        + x/a -> x/c :80 TCP
        + x/b -> x/c :80 TCP
        - x/c -> x/b :80 TCP
    """),
    Table("NotIn matches what lacks the label", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [blue]}]}}]}]"), """
        + z/a -> x/a :80 TCP
        + x/b -> x/a :80 TCP
        - y/a -> x/a :80 TCP
    """),
    Table("Exists", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}}]}]"), """
        + y/a -> x/a :80 TCP
        - z/a -> x/a :80 TCP
    """),
    Table("DoesNotExist", v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}]}]"), """
        + z/a -> x/a :80 TCP
        - y/a -> x/a :80 TCP
    """),
    Table("labels and expressions: all of them", v1("x", "podSelector: {matchLabels: {app: odd}, matchExpressions: [{key: pod, operator: NotIn, values: [c]}]}, policyTypes: [Ingress]"), """
        - y/a -> x/a :80 TCP
        + y/a -> x/c :80 TCP
        + y/a -> x/b :80 TCP
    """),
    Table("policies add up", v1("x", "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]", "one") + v1("x", "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: c}}}]}]", "two"), """
        + x/b -> x/a :80 TCP
        + x/c -> x/a :80 TCP
        - x/a -> x/b :80 TCP
    """),
    Table("both ends have to allow", v1("x", "podSelector: {}, egress: [{to: [{namespaceSelector: {}}]}], policyTypes: [Egress]") + v1("y", "podSelector: {}, ingress: [{from: [{podSelector: {}}]}]"), """
        - x/a -> y/b :80 TCP
        + x/a -> z/b :80 TCP
        + y/a -> y/b :80 TCP
        - z/a -> y/b :80 TCP
        - x/a -> world :80 TCP
    """),
    Table("a port by number, TCP by default", v1("x", "podSelector: {}, ingress: [{ports: [{port: 80}]}]"), """
        + y/a -> x/a :80 TCP
        - y/a -> x/a :81 TCP
        - y/a -> x/a :80 UDP
        - y/a -> x/a :80 SCTP
    """),
    Table("a port of UDP", v1("x", "podSelector: {}, ingress: [{ports: [{port: 53, protocol: UDP}]}]"), """
        + y/a -> x/a :53 UDP
        - y/a -> x/a :53 TCP
    """),
    Table("a protocol without a port", v1("x", "podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]"), """
        + y/a -> x/a :9999 UDP
        - y/a -> x/a :9999 TCP
    """),
    Table("SCTP", v1("x", "podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 7}]}]"), """
        + y/a -> x/a :7 SCTP
        - y/a -> x/a :8 SCTP
    """),
    Table("a range of ports", v1("x", "podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]"), """
        + y/a -> x/a :80 TCP
        + y/a -> x/a :85 TCP
        + y/a -> x/a :90 TCP
        - y/a -> x/a :91 TCP
        - y/a -> x/a :79 TCP
        - y/a -> x/a :85 UDP
    """),
    Table("a named port is the destination's own", v1("x", "podSelector: {}, ingress: [{ports: [{port: web}]}]"), """
        + y/a -> x/a :80 TCP
        - y/a -> x/a :8080 TCP
        + y/a -> x/c :8080 TCP
        - y/a -> x/c :80 TCP
        - y/a -> x/a :80 UDP
    """),
    Table("a named port of UDP", v1("x", "podSelector: {}, ingress: [{ports: [{port: dns, protocol: UDP}, {port: dns}]}]"), """
        + y/a -> x/a :53 UDP
        - y/a -> x/a :53 TCP
    """),
    Table("a named port that nobody has", v1("x", "podSelector: {}, ingress: [{ports: [{port: metrics}]}]"), """
        - y/a -> x/a :80 TCP
    """),
    Table("a named port on the way out is the peer's", v1("x", "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]"), """
        + x/a -> y/a :80 TCP
        + x/a -> y/c :8080 TCP
        - x/a -> y/c :80 TCP
        - x/a -> world :80 TCP
    """),
    Table("several ports and peers", v1("x", "podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}, {port: 53, protocol: UDP}]}, {from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 81}]}]"), """
        + x/b -> x/a :80 TCP
        + x/b -> x/a :53 UDP
        - x/b -> x/a :81 TCP
        + y/b -> x/a :81 TCP
        - y/b -> x/a :80 TCP
    """),
    Table("ipBlock with exceptions, outside", v1("x", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.128/25]}}]}]"), """
        + x/a -> world :443 TCP
        - x/a -> near :443 TCP
        - x/a -> y/b :443 TCP
        - x/a -> world6 :443 TCP
    """),
    Table("ipBlock and pods' addresses", v1("x", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.2.0.0/16, except: [10.2.0.3/32]}}]}]"), """
        + x/a -> y/a :80 TCP
        - x/a -> y/c :80 TCP
        - x/a -> z/a :80 TCP
        - x/a -> y/a :80 TCP6
    """),
    Table("ipBlock of IPv6", v1("x", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 'fd00:2::/32'}}]}]"), """
        + x/a -> y/a :80 TCP6
        - x/a -> y/a :80 TCP
        - x/a -> world6 :80 TCP
    """),
    Table("ipBlock of everything is every address of that family", v1("x", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]"), """
        + world -> x/a :80 TCP
        + y/a -> x/a :80 TCP
        + node:n2 -> x/a :80 TCP
        - y/a -> x/a :80 TCP6
        + x/h -> x/b :80 TCP
    """),
    Table("a Service's address and its backend's", v1("x", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}]}]"), """
        ? x/a -> y/b :80 TCP via 10.96.0.9
        - x/a -> y/b :80 TCP
        - x/a -> y/b :80 TCP via 10.2.0.9
    """),
    Table("a Service's address where both are in the block", v1("x", "podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]"), """
        + x/a -> y/b :80 TCP via 10.96.0.9
        ? x/a -> y/b :80 TCP via 172.20.0.9
    """),
    Table("host-network pods as peers", v1("x", "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: h}}}]}]"), """
        ? x/h -> x/b :80 TCP
        + x/h -> x/a :80 TCP
        - x/c -> x/b :80 TCP
    """),
    Table("host-network pods by their node's address", v1("x", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 172.18.0.1/32}}]}]"), """
        + x/h -> x/b :80 TCP
        + node:n1 -> x/b :80 TCP
        - node:n2 -> x/a :80 TCP
    """),
    Table("host-network pods as subjects", v1("x", "podSelector: {matchLabels: {pod: h}}, policyTypes: [Ingress, Egress]"), """
        ? x/h -> y/b :80 TCP
        ? y/b -> x/h :80 TCP
        + y/b -> x/a :80 TCP
    """),
    Table("protocols that the API does not know", v1("x", "podSelector: {}, policyTypes: [Ingress]"), """
        ? y/b -> x/a :0 ICMP
        + x/a -> y/b :0 ICMP
    """),
    Table("admin: deny wins over NetworkPolicies", anp(1, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}]") + v1("x", "podSelector: {}, ingress: [{}]"), """
        - y/a -> x/a :80 TCP
        + z/a -> x/a :80 TCP
        + x/b -> x/a :80 TCP
        + world -> x/a :80 TCP
    """),
    Table("admin: allow wins over NetworkPolicies", anp(1, f"{IN_X}, ingress: [{{action: Allow, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}]") + v1("x", "podSelector: {}, policyTypes: [Ingress]"), """
        + y/a -> x/a :80 TCP
        - z/a -> x/a :80 TCP
        - world -> x/a :80 TCP
    """),
    Table("admin: pass leaves it to them", anp(1, f"{IN_X}, ingress: [{{action: Pass, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}, {{action: Deny, from: [{{namespaces: {{}}}}]}}]") + v1("x", "podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]"), """
        - y/a -> x/a :80 TCP
        + y/a -> x/b :80 TCP
        - z/a -> x/b :80 TCP
        - x/c -> x/b :80 TCP
        + world -> x/b :80 TCP
        - world -> x/a :80 TCP
    """),
    Table("admin: the lower priority value first", anp(5, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]", "late") + anp(1, f"{IN_X}, ingress: [{{action: Allow, from: [{{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{pod: b}}}}}}}}]}}]", "early"), """
        + y/b -> x/a :80 TCP
        - y/a -> x/a :80 TCP
        + x/b -> x/a :80 TCP
        + world -> x/a :80 TCP
    """),
    Table("admin: rules in their order", anp(1, f"{IN_X}, ingress: [{{action: Allow, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}, {{action: Deny, from: [{{namespaces: {{}}}}]}}]"), """
        + y/a -> x/a :80 TCP
        - z/a -> x/a :80 TCP
    """),
    Table("admin: equal priorities that differ", anp(3, f"{IN_X}, ingress: [{{action: Allow, from: [{{namespaces: {{}}}}]}}]", "first") + anp(3, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}]", "second"), """
        ? y/a -> x/a :80 TCP
        + z/a -> x/a :80 TCP
        + world -> x/a :80 TCP
    """),
    Table("admin: equal priorities that agree", anp(3, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]", "one") + anp(3, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]", "two"), """
        - y/a -> x/a :80 TCP
    """),
    Table("admin: equal priorities, a pass and a deny of what would be allowed", anp(3, f"{IN_X}, ingress: [{{action: Pass, from: [{{namespaces: {{}}}}]}}]", "one") + anp(3, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]", "two"), """
        ? y/a -> x/a :80 TCP
    """),
    Table("admin: equal priorities, a pass and a deny of what is denied anyway", anp(3, f"{IN_X}, ingress: [{{action: Pass, from: [{{namespaces: {{}}}}]}}]", "one") + anp(3, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]", "two") + v1("x", "podSelector: {}, policyTypes: [Ingress]"), """
        - y/a -> x/a :80 TCP
    """),
    Table("admin: subjects by pods", anp(1, "subject: {pods: {namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {pod: a}}}}, egress: [{action: Deny, to: [{namespaces: {}}]}]"), """
        - x/a -> y/a :80 TCP
        + x/b -> y/a :80 TCP
        + y/a -> x/b :80 TCP
        + x/a -> world :80 TCP
        + x/a -> x/a :80 TCP
    """),
    Table("admin: ports", anp(1, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], ports: [{{portNumber: {{protocol: TCP, port: 80}}}}, {{portRange: {{protocol: UDP, start: 50, end: 60}}}}, {{namedPort: web}}]}}]"), """
        - y/a -> x/a :80 TCP
        + y/a -> x/a :81 TCP
        - y/a -> x/a :53 UDP
        + y/a -> x/a :61 UDP
        - y/a -> x/c :8080 TCP
        + y/a -> x/a :8080 TCP
    """),
    Table("admin: networks mean pods too", anp(1, f"{IN_X}, egress: [{{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}]"), """
        - x/a -> world :80 TCP
        - x/a -> y/b :80 TCP
        + x/a -> y/b :80 TCP6
        + x/a -> world6 :80 TCP
        + x/a -> node:n1 :80 TCP
    """),
    Table("admin: nodes", anp(1, f"{ALL}, egress: [{{action: Deny, to: [{{nodes: {{matchLabels: {{role: control}}}}}}]}}]"), """
        - x/a -> node:n2 :6443 TCP
        + x/b -> node:n2 :6443 TCP
        + x/b -> node:n1 :6443 TCP
        + x/a -> y/b :6443 TCP
    """),
    Table("admin: host-network pods are neither subjects nor peers", anp(1, f"{ALL}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}], egress: [{{action: Deny, to: [{{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{pod: h}}}}}}}}]}}]"), """
        + x/h -> y/b :80 TCP
        + y/b -> x/h :80 TCP
        - y/b -> z/b :80 TCP
    """),
    Table("admin: an unknown peer fails closed", anp(1, f"{IN_X}, ingress: [{{action: Allow, from: [{{colour: red}}]}}]", "allow") + anp(2, "subject: {namespaces: {matchLabels: {team: blue}}}, ingress: [{action: Pass, from: [{colour: red}]}]", "pass"), """
        + z/a -> x/a :80 TCP
        - z/a -> y/a :80 TCP
        - world -> y/a :80 TCP
    """),
    Table("baseline: what no NetworkPolicy selects", banp(f"{IN_X}, ingress: [{{action: Allow, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}, {{action: Deny, from: [{{namespaces: {{}}}}]}}]") + v1("x", "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]"), """
        + y/a -> x/b :80 TCP
        - z/a -> x/b :80 TCP
        + z/a -> x/a :80 TCP
        - y/a -> x/a :80 TCP
        + world -> x/b :80 TCP
        - world -> x/a :80 TCP
    """),
    Table("three tiers", anp(1, f"{IN_X}, egress: [{{action: Allow, to: [{{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{pod: b}}}}}}}}], ports: [{{portNumber: {{protocol: UDP, port: 53}}}}]}}, {{action: Deny, to: [{{networks: [198.51.100.0/24]}}]}}]") + v1("x", "podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: blue}}}]}, {to: [{ipBlock: {cidr: 198.51.100.0/24}}]}]") + banp(f"{IN_X}, egress: [{{action: Deny, to: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}]"), """
        + x/a -> z/b :53 UDP
        - x/a -> z/b :53 TCP
        + x/a -> y/a :80 TCP
        - x/a -> world :80 TCP
        - x/b -> y/a :80 TCP
        + x/b -> y/b :53 UDP
        + x/b -> z/a :80 TCP
        - x/b -> world :80 TCP
        + x/b -> world6 :80 TCP
        - x/a -> world6 :80 TCP
    """),
    Table("ClusterNetworkPolicy, Admin", cnp("Admin", 10, f"{IN_X}, ingress: [{{action: Accept, from: [{{pods: {{namespaceSelector: {{matchLabels: {{team: blue}}}}, podSelector: {{matchLabels: {{pod: b}}}}}}}}], protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}}]}}, {{action: Deny, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}]}}]") + v1("x", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]"), """
        + y/b -> x/a :80 TCP
        - y/b -> x/a :81 TCP
        - y/a -> x/a :80 TCP
        + z/a -> x/a :80 TCP
    """),
    Table("ClusterNetworkPolicy, protocols", cnp("Admin", 10, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: {{range: {{start: 80, end: 89}}}}}}}}, {{udp: {{}}}}, {{destinationNamedPort: web}}]}}]"), """
        - y/b -> x/a :85 TCP
        + y/b -> x/a :90 TCP
        - y/b -> x/a :9999 UDP
        - y/b -> x/c :8080 TCP
        + y/b -> x/a :85 SCTP
    """),
    Table("ClusterNetworkPolicy, Baseline, and domain names", cnp("Baseline", 10, f"{IN_X}, egress: [{{action: Accept, to: [{{domainNames: ['*.example.com']}}]}}, {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}]"), """
        + x/a -> near :443 TCP
        ? x/a -> world :443 TCP
        - x/a -> y/b :443 TCP
        + x/a -> y/b :443 TCP6
    """),
    Table("ClusterNetworkPolicy, equal priorities in different tiers do not meet", cnp("Admin", 5, f"{IN_X}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}]}}]", "a") + cnp("Baseline", 5, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]", "b"), """
        + y/a -> x/a :80 TCP
    """),
    Table("ClusterNetworkPolicy and AdminNetworkPolicy of one priority", cnp("Admin", 5, f"{IN_X}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}]}}]", "a") + anp(5, f"{IN_X}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]", "b"), """
        ? y/a -> x/a :80 TCP
    """),
    Table("ClusterNetworkPolicy, fails closed", cnp("Baseline", 5, f"{IN_X}, egress: [{{action: Deny, to: [{{planets: [mars]}}]}}]"), """
        - x/a -> y/b :80 TCP
        - x/a -> world :80 TCP
        + y/b -> x/a :80 TCP
    """),
]  # fmt: skip

_VERDICTS = {"+": "allowed", "-": "denied", "?": "undefined"}
ROWS = [
    (table, line.strip()[2:], _VERDICTS[line.strip()[0]])
    for table in TABLES
    for line in table.lines.strip().splitlines()
]


@pytest.mark.parametrize(("table", "line", "verdict"), ROWS, ids=[f"{t.name}: {line}" for t, line, _ in ROWS])
def test_row(table: Table, line: str, verdict: str) -> None:
    decision = Evaluator(policies(table.policies), CLUSTER).decide(traffic(CLUSTER, line))
    assert str(decision.verdict) == verdict, [step.says for step in decision.steps]


def test_there_are_enough() -> None:
    assert len(ROWS) >= 200
