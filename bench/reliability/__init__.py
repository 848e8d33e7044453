"""What is lost when something goes wrong: Fairlead beside nginx and HAProxy. Run: python -m bench.reliability"""
