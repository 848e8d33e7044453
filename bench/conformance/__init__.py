"""The verdicts on hostile bytes: Fairlead beside nginx and HAProxy. Run: python -m bench.conformance"""
