#!/usr/bin/env bash
# Installs the S3 server that the vault's tests talk to, and prints the command that starts it.
#
#   scripts/s3-server.sh
#
# It is moto, an S3 in Python that knows conditional puts, versions and object lock. All packages are pinned, and lie in
# a virtual environment in cargo's target directory; nothing else of the machine is touched. The command serves on a
# free port of 127.0.0.1, prints its address on the first line, and ends with its process. Requests are served one after
# the other, since this server checks a condition and acts on it in two steps.
. "$(dirname "$0")/setup.sh"

DIR=$(target_dir)/s3-server
PINNED=(
  moto==5.2.5 blinker==1.9.0 boto3==1.44.8 botocore==1.44.8 certifi==2026.10.19.post1 cffi==2.1.1 charset-normalizer==3.5.3
  click==8.5.1 cryptography==50.0.2 Flask==3.1.3 flask-cors==6.0.5 idna==3.20 itsdangerous==2.2.0 Jinja2==3.1.6
  jmespath==1.1.0 MarkupSafe==3.0.4 py-partiql-parser==0.6.3 pycparser==3.12 python-dateutil==2.9.0.post0 PyYAML==6.0.4
  requests==2.34.2 responses==0.26.3 s3transfer==0.19.3 six==1.17.0 urllib3==2.8.0 Werkzeug==3.1.9 xmltodict==1.0.4
)

mkdir -p "$(target_dir)"
exec 9>"$DIR.lock"
flock 9
if [ "$(cat "$DIR/pinned" 2>/dev/null)" != "${PINNED[*]}" ]; then
  rm -rf "$DIR"
  { python3 -m venv "$DIR" && "$DIR/bin/pip" install --quiet --disable-pip-version-check "${PINNED[@]}"; } >&2
  printf '%s' "${PINNED[*]}" >"$DIR/pinned"
fi
cat >"$DIR/serve.py.new" <<'PYTHON'
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

domains = DomainDispatcherApplication(create_backend_app)


def app(environ, start_response):
    # Where objects are locked S3 asks for a checksum; this server asks for the header that announces one instead.
    if any(name.startswith("HTTP_X_AMZ_CHECKSUM_") for name in environ):
        environ.setdefault("HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM", "SHA256")
    return domains(environ, start_response)


server = make_server("127.0.0.1", 0, app, threaded=False)
print(f"127.0.0.1:{server.port}", flush=True)
sys.stderr.close()
sys.stderr = open("/dev/null", "w")
server.serve_forever()
PYTHON
mv "$DIR/serve.py.new" "$DIR/serve.py"
printf '%s %s\n' "$DIR/bin/python" "$DIR/serve.py"
