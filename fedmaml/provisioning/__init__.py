"""A federation over real sites: certificates, node keys, the processes of both sides, and a doctor.

The site:          keys -> site_run (worker and SuperNode) after probes say that it can work
The coordinator:   certificates, roster -> superlink -> coordinating, one run to its end

Nothing here computes; what a site answers is in ``fedmaml.sites``.
"""
