# For mypy: the shim's modules import each other by plain names, since they run as a folder.
from node_agent.shim.engine import *
