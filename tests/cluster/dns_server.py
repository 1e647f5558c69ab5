"""A cluster's DNS over UDP and TCP: `dns_server.py ADDRESS ZONE_FILE`. The zone, JSON of name -> [[type, ttl, data], ...], is read anew for each question."""

import json
import sys
import time

from dnslib import AAAA, CNAME, QTYPE, RCODE, RD, RR, A
from dnslib.server import BaseResolver, DNSServer

RECORDS = {"A": A, "AAAA": AAAA, "CNAME": CNAME}


class Zone(BaseResolver):
    def resolve(self, request, handler) -> object:
        with open(sys.argv[2]) as file:
            zone = json.load(file)
        reply = request.reply()
        name = str(request.q.qname).rstrip(".").lower()
        wanted = QTYPE[request.q.qtype]
        if name not in zone:
            reply.header.rcode = RCODE.NXDOMAIN
            return reply
        seen = set()
        while name in zone and name not in seen:
            seen.add(name)
            for kind, ttl, data in zone[name]:
                if kind == "CNAME" or kind == wanted:
                    record: RD = RECORDS[kind](data)
                    reply.add_answer(RR(name, getattr(QTYPE, kind), rdata=record, ttl=ttl))
                if kind == "CNAME":
                    name = data.rstrip(".").lower()
        return reply


for tcp in (False, True):
    DNSServer(Zone(), address=sys.argv[1], port=53, tcp=tcp).start_thread()
while True:
    time.sleep(60)
