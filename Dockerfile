# One image for web, worker and scheduler. Built and run by nobody yet: only its text is checked by the tests.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 serai \
    && install -d -o serai -g serai -m 0700 /data /cache

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements.txt

COPY . .
ENV PYTHONPATH=/app/platform \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=config.settings \
    SERAI_NO_VENV=1 \
    SERAI_DATA=/data \
    SERAI_CACHE=/cache
USER serai
VOLUME ["/data", "/cache"]
EXPOSE 8000
CMD ["python", "manage.py", "web", "--host", "0.0.0.0"]
