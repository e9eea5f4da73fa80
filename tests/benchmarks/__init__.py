"""Commands that measure: speed, memory, scheduling, MLflow. RESULTS.md keeps what they found."""

import sys
from pathlib import Path

# the tests' helpers, which find each other by their plain names
sys.path.insert(0, str(Path(__file__).parents[1]))
