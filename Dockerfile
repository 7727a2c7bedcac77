# CPU:   docker build -t mae_mm .
# CUDA:  docker build -t mae_mm --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg FORCE_CUDA=1 .
# Use:   docker run --rm --ipc=host -v "$PWD:/work" mae_mm train configs/own_data/mae_pretrain.py --data PHOTOS
#        (with GPUs: --gpus all)
ARG BASE=debian:12-slim
FROM ${BASE}

# What opencv-python links to; headers of libjpeg-turbo for the crop decoder; a compiler for it and for mmcv's operators.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       build-essential libgl1 libglib2.0-0 libjpeg-dev make procps python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ARG FORCE_CUDA=
ENV FORCE_CUDA=${FORCE_CUDA}
WORKDIR /opt/mae_mm
COPY . .
RUN make install && rm -rf /root/.cache
ENV PATH=/opt/mae_mm/.venv/bin:$PATH

WORKDIR /work
ENTRYPOINT ["mae-mm"]
