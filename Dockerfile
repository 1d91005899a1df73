# Serves finished bakeoffs on a CPU: docs/serve.md says how to build and start it.
FROM python:3.11-slim

WORKDIR /opt/bakeoff
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# PIP_EXTRA_INDEX_URL=... with the index of PyTorch's CPU builds leaves out CUDA's libraries, which are gigabytes.
ARG PIP_EXTRA_INDEX_URL
RUN python -m pip install --no-cache-dir --constraint constraints.txt '.[serve]' \
 && useradd --uid 1000 --create-home bakeoff

# A number, so that a host that refuses root (runAsNonRoot of Kubernetes) need not look a name up.
USER 1000
WORKDIR /bakeoffs
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# SIGTERM, which `docker stop` sends, lets running requests finish.
ENTRYPOINT ["bakeoff", "serve", "--host", "0.0.0.0", "--api-key-file", "/run/secrets/bakeoff-key"]
CMD ["/bakeoffs/demo"]
