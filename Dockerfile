# One image for every process of the service and for the trainer; the compose file says which one a container runs.
# A CPU build of torch comes from the index in TORCH_INDEX, where one is given.
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=""
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
# The dependencies first, with an empty package: a change of code then costs seconds.
RUN mkdir phasewatch && touch phasewatch/__init__.py \
 && /opt/venv/bin/pip install --no-cache-dir -c constraints.txt '.[server,trainer,dask]' && rm -r build phasewatch
COPY phasewatch phasewatch
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --force-reinstall . && find /opt/venv -name __pycache__ -prune -exec rm -rf {} +

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /home/phasewatch phasewatch \
 && install -d -o phasewatch -g phasewatch /data/artifacts \
 && install -d -m 700 -o phasewatch -g phasewatch /data/dask
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY server server
COPY trainer trainer
COPY migrations migrations
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
    PHASEWATCH_DATA=/tmp/phasewatch-data PHASEWATCH_ARTIFACTS_URL=/data/artifacts PHASEWATCH_HOST=0.0.0.0 PHASEWATCH_PORT=8000
USER phasewatch
ENTRYPOINT ["python", "-m"]
CMD ["server", "api"]
