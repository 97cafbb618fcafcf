# Sourced by ./test, ./bench and ./soak in the top folder: gets a nats-server and the Python packages of the tests.
export NATS_SERVER_BIN ROLLCALL_PYTHON PYTHONPATH
NATS_SERVER_BIN=$(tools/nats-server.sh)
PYTHONPATH=$(tools/from-pypi.sh test)${PYTHONPATH:+:$PYTHONPATH}
ROLLCALL_PYTHON=$(command -v python3)
