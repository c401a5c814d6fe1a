# docker build -t nnkit . && mkdir -p runs data
# docker run --rm -v "$PWD/runs:/runs" nnkit train
# docker run --rm -v "$PWD/runs:/runs" -v "$PWD/data:/data" nnkit train cifar10-cnn --download
# docker run --rm -v "$PWD/runs:/runs" -p 127.0.0.1:8501:8501 nnkit app
# The image's user has the id 1000. With another id, let the folders be written with yours: --user "$(id -u):$(id -g)"

FROM python:3.12-slim AS build
# python3-dev serves a base image whose Python is the distribution's own; python:3.12-slim brings its headers itself.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY . /src
RUN pip install "/src[app]"

FROM python:3.12-slim
LABEL org.opencontainers.image.title="nnkit" org.opencontainers.image.licenses="MIT"
RUN useradd --uid 1000 --create-home nnkit \
    && install -d -o nnkit -g nnkit /data /runs
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH NNKIT_DATA=/data MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
# Inside the container the app listens to all; who can reach it is decided by `docker run -p`.
ENV NNKIT_APP_ADDRESS=0.0.0.0
USER nnkit
EXPOSE 8501
VOLUME ["/data", "/runs"]
# `nnkit train` writes to ./runs, which here is the volume /runs.
WORKDIR /
ENTRYPOINT ["nnkit"]
CMD ["train"]
