"""What does the data plane cost, beside nginx, on the machine at hand?

`python -m bench` prints every figure of the performance budget next to nginx's, measured in the same run.
`python -m bench --quick` is a smoke run; `--with haproxy` adds a proxy, `--test small` picks a measurement, `--json` is
for programs. `python -m bench.profile small` shows where fairlead spends its time.
Rule 1: nothing here is imported by the product, and no figure is asserted in a test.
Rule 2: a run with one wrong answer is a failed run; it yields no figure.
"""
